package e2e

import (
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

func TestTerminal_ChangesNothingThatIsNotConfirmed(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	o.dead(20, 2)
	before := o.state()
	for _, answer := range []string{"n", "", "no", "yes please", "\x04"} {
		r := o.onTerminal(nil, discarding(0)...)
		r.says("discard 20 dead letters of orders? [y/N] ")
		r.answer(answer)
		end := r.ends()
		require.Equal(t, 1, end.status, "%q: %s", answer, end.out)
		require.Contains(t, end.out, "not confirmed: nothing was changed", "%q", answer)
	}
	require.Equal(t, before, o.state(), "nothing changed")
}

func TestTerminal_DoesAConfirmedOperationAndShowsItsProgress(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.dead(60, 10)
	o.work()
	r := o.onTerminal(nil, discarding(20)...)
	r.says("discard 60 dead letters of orders? [y/N] ")
	r.answer("Y")
	end := r.ends()
	require.Zero(t, end.status, end.out)
	require.Contains(t, end.out, "done: 60 dead letters of orders")
	between := regexp.MustCompile(`\d\d\.\d\d% \[#+\.+\] \[\d\d; \d+/s\] \.\.\. discard orders`)
	require.Regexp(t, between, end.out, "the bar moves")
	require.Contains(t, end.out, "discard orders ... done! [60; ")
	require.NotContains(t, end.out, "20 of 60\r\n", "no lines as in a log")
}

func TestTerminal_InterruptingAFollowedOperationLetsItGoOn(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.dead(60, 10)
	o.work()
	r := o.onTerminal(nil, discarding(20, "--yes")...)
	r.says("0% [#")
	_, err := r.tty.WriteString("\x03") // Ctrl-C
	require.NoError(t, err)
	end := r.ends()
	require.Equal(t, 1, end.status, end.out)
	require.NotContains(t, end.out, "done!")
	require.Contains(t, end.out, "the workflow continues: the same command follows it again")
	testenv.Eventually(t, 30*time.Second, func() error {
		if n := o.count(`SELECT count(*) FROM outbox.operation WHERE outcome = 'done' AND done = 60`); n == 0 {
			return errNotYet
		}
		return nil
	})
}

func TestCompletion_CompletesTopicsAndNothingAfterThem(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, "topics:\n  orders: {sqs: q}\n")
	o.exec(`INSERT INTO outbox.lane (topic, lane) VALUES ('orders', 1), ('audit', 1)`)
	for _, args := range [][]string{
		{"dead", "redrive"}, {"dead", "discard"}, {"dead", "list"}, {"replay"}, {"pause"}, {"resume"}, {"recover"},
	} {
		r := o.command(append(append([]string{"__complete"}, args...), "")...)
		require.Equal(t, "audit\norders\n:4\n", r.out, "%v: %s", args, r.err)
		r = o.command(append(append([]string{"__complete"}, args...), "orders", "")...)
		require.Equal(t, ":4\n", r.out, "%v: %s", args, r.err)
	}
	r := o.commandIn(append(append([]string{}, o.env...), "DATABASE_URL="), "__complete", "pause", "")
	require.Equal(t, ":1\n", r.out, "no database, no topics, and no error on the prompt")
}

// A link is worth something only if Temporal's UI has a page of that address.
func TestTerminal_LinksOfWorkflowsOpenTheirPagesInTemporalsUI(t *testing.T) {
	t.Parallel()
	ui := os.Getenv("TEMPORAL_UI_URL")
	if ui == "" {
		t.Skip("no TEMPORAL_UI_URL")
	}
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	o.dead(3, 1)
	o.work()
	var id string
	require.NoError(t, o.db.QueryRow(t.Context(), `SELECT event_id::text FROM outbox.event ORDER BY id LIMIT 1`).Scan(&id))
	o.env = append(o.env, "TEMPORAL_UI_URL="+ui+"/", "TEMPORAL_NAMESPACE=default")

	pages := uiPages(t, ui)
	recovery := ui + "/namespaces/default/workflows/outbox-recovery%2Forders"
	require.Contains(t, o.command("where", id).out, "seen by outbox-recovery/orders ("+recovery+")")
	require.Contains(t, o.command("dead", "show", id).out, "seen by    outbox-recovery/orders ("+recovery+")")
	opens(t, pages, recovery, "/namespaces/[namespace]/workflows/[workflow]")

	r := o.command(discarding(0, "--yes", "--json")...)
	require.Zero(t, r.status, r.err)
	operation := regexp.MustCompile(`carried out by workflow (\S+) \((\S+)\)`).FindStringSubmatch(r.err)
	require.Len(t, operation, 3, r.err)
	require.Equal(t, ui+"/namespaces/default/workflows/"+strings.ReplaceAll(operation[1], "/", "%2F"), operation[2])
	opens(t, pages, operation[2], "/namespaces/[namespace]/workflows/[workflow]")

	o.write("orders", "f", 1, 1)
	o.exec(`UPDATE outbox.lane SET leased_until = now() + interval '1 hour', claimed_by = '0198f2a1-7c3b-7def-8123-456789abcdef/1'`)
	run := ui + "/namespaces/default/workflows?query=RunId%3D%220198f2a1-7c3b-7def-8123-456789abcdef%22"
	require.NoError(t, o.db.QueryRow(t.Context(), `SELECT event_id::text FROM outbox.event ORDER BY id DESC LIMIT 1`).Scan(&id))
	require.Contains(t, o.command("where", id).out, "leased by run 0198f2a1-7c3b-7def-8123-456789abcdef ("+run+")")
	opens(t, pages, run, "/namespaces/[namespace]/workflows")
}

// opens checks that an address is that of a page, as the UI's own router has it.
func opens(t *testing.T, pages []string, address, page string) {
	t.Helper()
	require.Contains(t, pages, page)
	path := strings.SplitN(strings.SplitN(address, "?", 2)[0], "/namespaces/", 2)[1]
	segments, pattern := strings.Split("namespaces/"+path, "/"), strings.Split(strings.TrimPrefix(page, "/"), "/")
	require.Len(t, segments, len(pattern), "%s is no %s", address, page)
	for i, p := range pattern {
		if !strings.HasPrefix(p, "[") {
			require.Equal(t, p, segments[i], "%s is no %s", address, page)
		}
	}
	_ = fetch(t, address)
}

// uiPages are the pages that the UI has, from the table of its router.
func uiPages(t *testing.T, ui string) (pages []string) {
	t.Helper()
	app := regexp.MustCompile(`/_app/immutable/entry/app\.[\w-]+\.js`).FindString(fetch(t, ui+"/"))
	require.NotEmpty(t, app, "the UI's program")
	for _, m := range regexp.MustCompile(`"/\(app\)(/[^"]*)":`).FindAllStringSubmatch(fetch(t, ui+app), -1) {
		pages = append(pages, m[1])
	}
	return pages
}

func fetch(t *testing.T, address string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode, address)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(body)
}
