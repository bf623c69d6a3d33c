package postgres

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Most attributes take a short way, which must make no difference.
func TestAttributes_AreThoseOfTheJSON(t *testing.T) {
	for _, raw := range []string{
		`{}`, `{"": ""}`, `{"a": "b"}`, `{"a": "b", "c": "d"}`, `{"a": "\"", "b": "c"}`, `{"a": "\\"}`, `{"a\"": "b"}`,
		`{"a": "b, c: d", "e": "}"}`, `{"a": "\u0001"}`, `{"a": "ü"}`, `{"ü": "a"}`, "{\"a\": \"\x7f\"}",
		`{"a": 1}`, `{"a": "b", "c": 1}`, `{"a": {"b": "c"}}`, `{"a": ["b"]}`, `["a"]`, `"a"`, `1`, `{"a":"b"}`,
	} {
		requireAsJSON(t, raw)
	}
	texts := rapid.OneOf(rapid.StringMatching(`[ -~]{0,8}`), rapid.StringMatching(`["\\:,{} a]{0,5}`), rapid.String())
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.MapOfN(texts, texts, 1, 6).Draw(t, "attributes")
		raw := `{`
		for name, value := range all {
			if len(raw) > 1 {
				raw += `, `
			}
			raw += jsonText(t, name) + `: ` + jsonText(t, value)
		}
		got, invalid := attributes([]byte(raw + `}`))
		require.Empty(t, invalid)
		require.Equal(t, all, got)
	})
}

func jsonText(t require.TestingT, text string) string {
	raw, err := json.Marshal(text)
	require.NoError(t, err)
	return string(raw)
}

func requireAsJSON(t *testing.T, raw string) {
	t.Helper()
	var want map[string]string
	err := json.Unmarshal([]byte(raw), &want)
	got, invalid := attributes([]byte(raw))
	if err != nil {
		require.NotEmpty(t, invalid, raw)
		return
	}
	require.Empty(t, invalid, raw)
	require.Equal(t, want, got, raw)
}
