package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// crowded is the SNS of an account with that many topics, whose attributes may not be
// read.
func crowded(t *testing.T, topics int) (url string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("Action") != "ListTopics" {
			w.WriteHeader(http.StatusForbidden)
			_, _ = fmt.Fprint(w, `<ErrorResponse><Error><Type>Sender</Type><Code>AuthorizationError</Code><Message>not you</Message></Error></ErrorResponse>`)
			return
		}
		time.Sleep(100 * time.Millisecond)
		from, _ := strconv.Atoi(r.FormValue("NextToken"))
		to := min(from+100, topics)
		var members strings.Builder
		for i := from; i < to; i++ {
			fmt.Fprintf(&members, "<member><TopicArn>arn:aws:sns:us-east-1:111122223333:topic-%d</TopicArn></member>", i)
		}
		next := ""
		if to < topics {
			next = fmt.Sprintf("<NextToken>%d</NextToken>", to)
		}
		_, _ = fmt.Fprintf(w, "<ListTopicsResponse><ListTopicsResult><Topics>%s</Topics>%s</ListTopicsResult></ListTopicsResponse>", members.String(), next)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestListing_OfAnAccountWithThousandsOfTopicsEndsInCheckAndInAWorker(t *testing.T) {
	t.Parallel()
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  far: {sns: topic-4999}\n  misspelt: {sns: topic-5000}\n  orders: {sqs: "+q.name+"}\n")
	o.env = append(o.env, "AWS_ENDPOINT_URL_SNS="+crowded(t, 5000))
	out, status := o.check(nil)
	require.Equal(t, 1, status, out)
	require.Regexp(t, `^ok .*arn:aws:sns:us-east-1:111122223333:topic-4999`, line(t, out, "far: destination"))
	require.Regexp(t, `^failed .*none of the 5,000 topics in region`, line(t, out, "misspelt: destination"))

	w := o.work()
	require.Regexp(t, `listing SNS topics: [\d,]+ read, page \d+`, w.text())
	o.write("orders", "o", 50, 5)
	o.schedule()
	requireOnce(t, q.receive(50, 30*time.Second), "o", 50) // the others wait for nothing
	testenv.Eventually(t, 60*time.Second, func() error { return w.ready("none of the 5,000 topics") })
	require.Error(t, w.ready("far"), "it is found")
}
