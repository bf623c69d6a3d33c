package bench

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Machine describes the machine of the figures. A field that cannot be found out is empty.
type Machine struct {
	OS         string  `json:"os"`
	CPUs       int     `json:"cpus"`
	CPUModel   string  `json:"cpu_model,omitempty"`
	MemoryGiB  float64 `json:"memory_gib,omitempty"`
	Go         string  `json:"go"`
	PostgreSQL string  `json:"postgresql"`
	// Temporal is the server's version.
	Temporal string `json:"temporal"`
	// DataOn is the file system of the directory for temporary files, where the
	// local stack keeps its data.
	DataOn string `json:"data_on,omitempty"`
	// Fsync and SynchronousCommit are the database's.
	Fsync             string `json:"fsync"`
	SynchronousCommit string `json:"synchronous_commit"`
}

func (e *environment) machine(ctx context.Context, conn *pgx.Conn) (Machine, error) {
	m := Machine{
		OS: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), Go: runtime.Version(),
		CPUModel: strings.TrimSpace(field("/proc/cpuinfo", "model name")), Temporal: e.temporalVersion,
	}
	if kib, _, ok := strings.Cut(strings.TrimSpace(field("/proc/meminfo", "MemTotal")), " "); ok {
		if n, err := strconv.ParseFloat(kib, 64); err == nil {
			m.MemoryGiB = round(n/(1<<20), 1)
		}
	}
	if out, err := exec.CommandContext(ctx, "df", "--output=fstype", os.TempDir()).Output(); err == nil {
		if lines := strings.Fields(string(out)); len(lines) == 2 {
			m.DataOn = lines[1]
		}
	}
	const sql = `SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')`
	return m, conn.QueryRow(ctx, sql).Scan(&m.PostgreSQL, &m.Fsync, &m.SynchronousCommit)
}

// field is the value of the first line of a file that begins with name.
func field(path, name string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return value
		}
	}
	return ""
}
