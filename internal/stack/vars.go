package stack

import "strings"

// Vars is the environment of a child process. It serves envconfig as a source, so
// that this process reaches Temporal the way that the child does.
type Vars []string

// LookupEnv returns the last value of a variable.
func (v Vars) LookupEnv(name string) (value string, ok bool) {
	for _, kv := range v {
		if n, text, found := strings.Cut(kv, "="); found && n == name {
			value, ok = text, true
		}
	}
	return value, ok
}

// Environ returns all of it.
func (v Vars) Environ() []string { return v }

// Get returns the last value of a variable, empty if there is none.
func (v Vars) Get(name string) string {
	value, _ := v.LookupEnv(name)
	return value
}

// With adds variables, which win over earlier ones.
func (v Vars) With(more ...string) Vars { return append(v[:len(v):len(v)], more...) }
