package outbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// noncharacters are legal inside of a JSON string, and SQS refuses them (see badText).
var noncharacters = strings.NewReplacer("\ufffe", `\ufffe`, "\uffff", `\uffff`)

// JSON encodes v for [Event.Payload], as [json.Marshal] does, in one line. The result
// has only characters that SQS and SNS deliver: a text of yours that has others, such as
// a control character, is escaped. It differs from json.Marshal in that <, > and &
// stay as they are, because a payload is not part of an HTML page. An escaped character
// would count six bytes against the size limit, and would be hard to read in a queue.
//
// As in json.Marshal, bytes of a Go string that are not UTF-8 become U+FFFD, and a
// []byte becomes a string in base64. Bytes that are JSON already need no JSON: use
// string(b).
//
// If v cannot be encoded, because it has a channel or a NaN for example, JSON returns
// an error, which wraps that of encoding/json, and no text. Return the error, so that
// the transaction rolls back. [Write] accepts no empty payload, so a caller that ignores
// the error does not lose the event either: its Write fails.
//
// Do not build JSON with fmt: %q quotes for Go, and consumers cannot parse it if the
// text has a control character.
func JSON(v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "", fmt.Errorf("encode payload as JSON: %w", err)
	}
	return noncharacters.Replace(strings.TrimSuffix(b.String(), "\n")), nil
}
