package awsapi

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"

	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/temporal-outbox/relay/internal/publish/detach"
)

// The SDK encodes a batch into a buffer that grows as it goes, and copies it twice before it is
// sent. With large payloads, that was three quarters of the worker's processor time and memory. So
// the relay encodes batches itself, once, and the SDK does the rest: endpoints, signatures, retries
// and errors.

// EncodesBatches makes the body of a request that which its context has (see detach.WithBody). The
// input of such a call has no entries, and a service refuses that, so nothing false can be sent. The
// content type is the one that the relay encodes: if a later SDK speaks another protocol, the call
// fails.
func EncodesBatches(contentType string) func(*middleware.Stack) error {
	return func(stack *middleware.Stack) error {
		return stack.Serialize.Insert(middleware.SerializeMiddlewareFunc("OutboxBody", func(
			ctx context.Context, in middleware.SerializeInput, next middleware.SerializeHandler,
		) (out middleware.SerializeOutput, metadata middleware.Metadata, err error) {
			body := detach.BodyOf(ctx)
			if body == nil {
				return next.HandleSerialize(ctx, in)
			}
			req, ok := in.Request.(*smithyhttp.Request)
			if !ok || req.Header.Get("Content-Type") != contentType {
				return out, metadata, fmt.Errorf("the SDK does not send %s", contentType)
			}
			req, err = req.SetStream(bytes.NewReader(body.Bytes()))
			if err != nil {
				return out, metadata, err
			}
			in.Request = req
			return next.HandleSerialize(ctx, in)
		}), "OperationSerializer", middleware.After)
	}
}

// AppendJSON appends a string as JSON. The text is valid UTF-8, which message.Check has seen to.
func AppendJSON(b []byte, s string) []byte {
	b = append(b, '"')
	i := 0
	for len(s)-i >= 8 {
		// Eight bytes at once, up to the first one that is escaped.
		word := binary.LittleEndian.Uint64([]byte(s[i : i+8]))
		b = binary.LittleEndian.AppendUint64(b, word)
		special := escaped(word)
		if special == 0 {
			i += 8
			continue
		}
		before := bits.TrailingZeros64(special) / 8
		b = appendEscape(b[:len(b)-8+before], s[i+before])
		i += before + 1
	}
	for ; i < len(s); i++ {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' {
			b = appendEscape(b, c)
		} else {
			b = append(b, c)
		}
	}
	return append(b, '"')
}

func appendEscape(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	}
	return append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xF])
}

const hex = "0123456789ABCDEF"

// escaped is not 0 if one of eight bytes is a control character, a quote or a backslash. Its lowest
// bit that is set is in the first of them.
func escaped(word uint64) uint64 {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	quote, backslash := word^(ones*'"'), word^(ones*'\\')
	control := (word - ones*' ') & ^word
	return (control | (quote-ones)&^quote | (backslash-ones)&^backslash) & highs
}

// JSONSize is about how many bytes AppendJSON appends, seldom less.
func JSONSize(s string) int {
	return len(s) + strings.Count(s, `"`) + strings.Count(s, `\`) + strings.Count(s, "\n") + 16
}

// FormSize is about how many bytes AppendForm appends for JSON in which texts are as frequent as
// elsewhere. It is a guess, because to count takes as long as to append.
func FormSize(s string) int { return len(s) + len(s)*3/4 }

// AppendForm appends a string as the value of a form.
func AppendForm(b []byte, s string) []byte {
	start := 0
	for i := range len(s) {
		c := s[i]
		if plain[c] {
			continue
		}
		b = append(b, s[start:i]...)
		if c == ' ' {
			b = append(b, '+')
		} else {
			b = append(b, '%', hex[c>>4], hex[c&0xF])
		}
		start = i + 1
	}
	return append(b, s[start:]...)
}

// plain are the bytes that a form has as they are.
var plain = func() (is [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~") {
		is[c] = true
	}
	return is
}()
