package stack

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// About describes each part in a line, in the order of Parts.
func (s *Stack) About() []string {
	var lines []string
	for _, part := range Parts() {
		if svc := s.services[part]; svc != nil {
			lines = append(lines, fmt.Sprintf("%-9s %s", part, svc.about))
		}
	}
	return lines
}

// Env is what clients need to reach the stack, as KEY=VALUE.
func (s *Stack) Env() []string {
	var env []string
	for _, part := range Parts() {
		if svc := s.services[part]; svc != nil {
			env = append(env, svc.env...)
		}
	}
	return env
}

// Environ is this process's environment for a child that uses the stack: Env
// added, and without the variables that would lead its clients elsewhere, such
// as a profile for Temporal Cloud or an AWS session.
func (s *Stack) Environ() []string {
	var unset []string
	for _, svc := range s.services {
		unset = append(unset, svc.unset...)
	}
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains(unset, name)
	})
	return append(env, s.Env()...)
}
