package awsapi

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
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
	b = slices.Grow(b, len(s)+2)
	b = append(b, '"')
	to, n := b[:cap(b)], len(b)
	i, clean := 0, 0
	for len(s)-i >= 8 {
		if len(to)-n < stepSize {
			b = slices.Grow(to[:n], len(s)-i+stepSize)
			to = b[:cap(b)]
		}
		if clean == cleanWords {
			// Whole blocks, up to the first one in which a byte is escaped.
			clean = 0
			plain := plainBlocks(s[i:], len(to)-n)
			copy(to[n:], s[i:i+plain])
			i, n = i+plain, n+plain
			continue
		}
		// Eight bytes at once, up to the first one that is escaped.
		word, step := wordOf(s[i:]), to[n:n+stepSize]
		binary.LittleEndian.PutUint64(step, word)
		special := escaped(word)
		if special == 0 {
			i, n, clean = i+8, n+8, clean+1
			continue
		}
		before := bits.TrailingZeros64(special) / 8 & 7
		c := s[i+before]
		i, n, clean = i+before+1, n+before, 0
		if c == '"' || c == '\\' {
			step[before], step[before+1] = '\\', c
			n += 2
		} else {
			n = len(appendEscape(to[:n], c))
		}
	}
	b = to[:n]
	for ; i < len(s); i++ {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' {
			b = appendEscape(b, c)
		} else {
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// stepSize is how many bytes a step of AppendJSON may write: seven, and the longest escape, or a word.
const stepSize = 16

// cleanWords is how many words without an escape have to follow each other until AppendJSON looks at whole
// blocks. JSON has a quote in most blocks.
const cleanWords = 4

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

// plainBlocks is how many bytes the first blocks of a text have, up to a block in which a byte is escaped,
// and at most most.
func plainBlocks(s string, most int) (n int) {
	const block = 32
	s = s[:min(len(s), most)]
	for ; len(s) >= block; s = s[block:] {
		if escaped(wordOf(s))|escaped(wordOf(s[8:]))|escaped(wordOf(s[16:]))|escaped(wordOf(s[24:])) != 0 {
			break
		}
		n += block
	}
	return n
}

// wordOf returns the first eight bytes of a text.
func wordOf(s string) uint64 { return binary.LittleEndian.Uint64([]byte(s[:8])) }

// escaped is not 0 if one of eight bytes is a control character, a quote or a backslash. Its lowest
// bit that is set is in the first of them.
func escaped(word uint64) uint64 {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	// A difference has the highest bit of a byte that was less, and neither quotes nor backslashes have it.
	return ((word - ones*' ') | ((word ^ ones*'"') - ones) | ((word ^ ones*'\\') - ones)) &^ word & highs
}

// JSONSize is about how many bytes AppendJSON appends, seldom less. It looks at parts of a long text only,
// because to count takes half as long as to append.
func JSONSize(s string) int {
	const parts, each = 8, 1 << 10
	escapes := 0
	if len(s) <= 2*parts*each {
		escapes = quotes(s)
	} else {
		for i := range parts {
			from := i * (len(s) - each) / (parts - 1)
			escapes += quotes(s[from : from+each])
		}
		escapes = escapes*(len(s)/each)/parts*9/8 + len(s)/64
	}
	return len(s) + escapes + 16
}

// quotes counts the bytes of a text that usually have an escape.
func quotes(s string) int {
	return strings.Count(s, `"`) + strings.Count(s, `\`) + strings.Count(s, "\n")
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
