// Command texts writes every text that the product shows to people into one Markdown
// document: the help of the commands, errors, log messages, the texts of Temporal's UI, the
// help of the metrics, and the output of the commands. The document lets you read and check
// these texts like any other document.
//
//	texts [-dir DIR] [-o FILE]
//
// It is made on demand and not kept, because its line numbers change with every edit.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	dir := flag.String("dir", ".", "the repository's directory")
	file := flag.String("o", "", "the file to write (default: standard output)")
	flag.Parse()
	if err := run(*dir, *file, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "texts: %v\n", err)
		os.Exit(1)
	}
}

func run(dir, file string, out io.Writer) error {
	texts, err := collect(os.DirFS(dir))
	if err != nil {
		return err
	}
	document := markdown(texts)
	if file == "" {
		_, err := io.WriteString(out, document)
		return err
	}
	return os.WriteFile(file, []byte(document), 0o644) //nolint:gosec // a document for everybody
}
