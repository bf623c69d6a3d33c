package bench

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// clockTick is how many times a second Linux counts processor time. It is 100 on
// every architecture that Go runs on.
const clockTick = 100

// cpuTimes are seconds by part. A part is nil-safe to leave out: where there is
// no /proc, there are none.
type cpuTimes map[string]float64

// readCPU adds up what this process and those below it have used, by what they
// are, and what the machine has used altogether and has been idle.
func readCPU() cpuTimes {
	times := cpuTimes{}
	parents, seconds := map[int]int{}, map[int]float64{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		parents[pid], seconds[pid] = parseStat(string(text))
	}
	self := os.Getpid()
	for pid, used := range seconds {
		if below(parents, pid, self) {
			times[partOf(pid, self)] += used
		}
	}
	all, idle := machineCPU()
	if all > 0 {
		times["all"], times["idle"] = all, idle
	}
	return times
}

// parseStat reads a line of /proc/PID/stat: the parent, and the processor time of
// the process and of its children that have ended.
func parseStat(text string) (parent int, seconds float64) {
	// pid (name) state ppid …, where the name may hold anything.
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 15 {
		return 0, 0
	}
	parent, _ = strconv.Atoi(fields[1])
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime
		ticks, _ := strconv.ParseFloat(f, 64)
		seconds += ticks / clockTick
	}
	return parent, seconds
}

func below(parents map[int]int, pid, ancestor int) bool {
	for range len(parents) {
		if pid == ancestor {
			return true
		}
		next, ok := parents[pid]
		if !ok || next == 0 {
			return false
		}
		pid = next
	}
	return false
}

// partOf names what a process is. PostgreSQL's servers, however they call
// themselves, are "postgres".
func partOf(pid, self int) string {
	if pid == self {
		return "bench"
	}
	name, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	switch comm := strings.TrimSpace(string(name)); comm {
	case "node", "MainThread":
		return "emulator"
	default:
		return comm
	}
}

// machineCPU is the machine's seconds of all processors together, and those in
// which they had nothing to do.
func machineCPU() (all, idle float64) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	for i, f := range fields {
		if i == 0 || i > 8 { // guest time is part of user time
			continue
		}
		ticks, _ := strconv.ParseFloat(f, 64)
		all += ticks / clockTick
		if i == 4 || i == 5 { // idle, waiting for a disk
			idle += ticks / clockTick
		}
	}
	return all, idle
}

// since returns the time used between an earlier reading and this one. "other" is the
// time of processes that are not below this one.
func (c cpuTimes) since(before cpuTimes) map[string]float64 {
	used, ours := map[string]float64{}, 0.0
	for part, seconds := range c {
		d := seconds - before[part]
		if part != "all" && part != "idle" {
			ours += d
		}
		if d = round(d, 2); d > 0 && part != "all" {
			used[part] = d
		}
	}
	if all, ok := c["all"]; ok {
		used["other"] = max(0, round(all-before["all"]-(c["idle"]-before["idle"])-ours, 2))
	}
	return used
}
