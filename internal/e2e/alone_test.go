package e2e

import (
	"crypto/md5"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/temporal-outbox/relay/internal/testenv"
)

// aloneRefused is SQS that refuses each event whose body begins with "bad" by itself, with a
// code that asks for a retry, and accepts every other.
type aloneRefused struct {
	mu       sync.Mutex
	accepted map[string]bool
}

func (a *aloneRefused) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Entries []struct{ Id, MessageBody string }
	}
	if json.NewDecoder(r.Body).Decode(&in) != nil {
		return
	}
	type entry map[string]any
	out := map[string][]entry{"Successful": {}, "Failed": {}}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range in.Entries {
		if strings.HasPrefix(e.MessageBody, "bad") {
			out["Failed"] = append(out["Failed"], entry{"Id": e.Id, "Code": "InternalError", "Message": "try again", "SenderFault": false})
			continue
		}
		a.accepted[e.MessageBody] = true
		out["Successful"] = append(out["Successful"], entry{
			"Id": e.Id, "MessageId": e.Id, "MD5OfMessageBody": fmt.Sprintf("%x", md5.Sum([]byte(e.MessageBody))),
		})
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	_ = json.NewEncoder(w).Encode(out)
}

func (a *aloneRefused) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.accepted)
}

func TestRecovery_PagesThatFailAloneBlockNoOtherEvent(t *testing.T) {
	t.Parallel()
	const poison, good = 3000, 200
	q := newQueue(t, testenv.Name(t))
	o := newOutbox(t, "topics:\n  orders: {sqs: "+q.name+"}\n")
	aws, refusing := newAWSProxy(t), &aloneRefused{accepted: map[string]bool{}}
	aws.answer(q.name, refusing.ServeHTTP)
	o.work("AWS_ENDPOINT_URL=" + aws.url)
	for _, of := range []struct {
		body string
		n    int
	}{{"bad", poison}, {"good", good}} {
		o.exec(`INSERT INTO outbox.event (topic, key, type, payload)
		        SELECT 'orders', $1 || i, 'Tested', $1 || i FROM generate_series(1, $2::int) i`, of.body, of.n)
	}
	o.schedule()
	testenv.Eventually(t, 3*time.Minute, func() error {
		if n := refusing.count(); n < good {
			return fmt.Errorf("%d of %d good events accepted", n, good)
		}
		return nil
	})
}
