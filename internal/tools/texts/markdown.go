package main

import (
	"fmt"
	"slices"
	"strings"
)

const head = `# Texts for people

Every text that the product shows to people, by kind and by file. ` + "`make texts`" + ` prints this document from the
code. In a text, {x} stands for the value of the Go expression x, and %s for a formatted value.
`

// markdown returns the document. A location ends with a full stop, so that a program that
// counts sentences sees where each text begins.
func markdown(texts []text) string {
	var b strings.Builder
	b.WriteString(head)
	for _, k := range kinds {
		file := ""
		fmt.Fprintf(&b, "\n## %s\n\n%d texts.\n", k, count(texts, k))
		for _, t := range texts {
			if t.kind != k {
				continue
			}
			if t.file != file {
				file = t.file
				fmt.Fprintf(&b, "\n### %s\n", file)
			}
			fmt.Fprintf(&b, "\n`%s:%d`%s.\n\n%s", t.file, t.line, label(t.label), quoted(t.text))
		}
	}
	return b.String()
}

func count(texts []text, k kind) int {
	return len(slices.DeleteFunc(slices.Clone(texts), func(t text) bool { return t.kind != k }))
}

func label(s string) string {
	if s == "" {
		return ""
	}
	return ", " + s
}

// quoted makes a block quote of a text. A renderer would take "<name>" for HTML and hide it.
func quoted(s string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(strings.Trim(s, "\n"), "\n") {
		b.WriteString(strings.TrimRight("> "+strings.ReplaceAll(line, "<", `\<`), " \t") + "\n")
	}
	return b.String()
}
