package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// confirm asks on a terminal, and insists on --yes elsewhere.
func confirm(cmd *cobra.Command, question string) error {
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		if cmd.Flags().Lookup("dry-run") == nil {
			return misuse("%s There is no terminal to ask on: add --yes; nothing was changed", question)
		}
		return misuse("there is no terminal to ask on: add --yes, or count first with --dry-run")
	}
	fmt.Fprint(cmd.ErrOrStderr(), question, " [y/N] ")
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return errors.New("not confirmed: nothing was changed")
	}
	return nil
}

// link is a workflow's address in the UI, where that is known.
func link(workflowID string) string {
	ui := os.Getenv("TEMPORAL_UI_URL")
	if ui == "" {
		return workflowID
	}
	return workflowID + " (" + strings.TrimSuffix(ui, "/") + "/namespaces/" + namespace() + "/workflows/" + url.PathEscape(workflowID) + ")"
}

// instantText is a time as people compare it with a clock.
func instantText(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") }
