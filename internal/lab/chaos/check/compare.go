package check

import (
	"maps"
	"slices"
)

// compare checks that a message is its event: payload, attributes, group.
func (j *judge) compare(q Queue, w *Written, r *Received) {
	if r.Payload != w.Payload {
		j.violate(Altered, "%s: the payload of event %s differs: %.60q was written, %.60q received", r.Queue, w.ID, w.Payload, r.Payload)
	}
	want := maps.Clone(w.Attributes)
	if want == nil {
		want = map[string]string{}
	}
	want["event_id"], want["event_type"], want["content_type"] = w.ID, w.Type, w.ContentType
	if !maps.Equal(want, r.Attributes) {
		j.violate(Altered, "%s: the attributes of event %s differ in %v", r.Queue, w.ID, differing(want, r.Attributes))
	}
	if q.Groups && w.Key != "" {
		j.compareGroup(w, r)
	}
}

// compareGroup checks that keys and groups correspond. If AWS does not accept a key as a
// group id, the name of its group does not matter.
func (j *judge) compareGroup(w *Written, r *Received) {
	if r.Group == "" {
		j.violate(Altered, "%s: event %s came without its key's group", r.Queue, w.ID)
		return
	}
	if group, known := j.groups[place{r.Queue, w.Key}]; known && group != r.Group {
		j.violate(Altered, "%s: key %q came in the groups %s and %s", r.Queue, shown(w.Key), group, r.Group)
	}
	if key, known := j.keys[place{r.Queue, r.Group}]; known && key != w.Key {
		j.violate(Altered, "%s: the keys %q and %q came in one group", r.Queue, shown(key), shown(w.Key))
	}
	j.groups[place{r.Queue, w.Key}], j.keys[place{r.Queue, r.Group}] = r.Group, w.Key
	if plain(w.Key) && r.Group != w.Key {
		j.violate(Altered, "%s: key %q came in group %q", r.Queue, w.Key, r.Group)
	}
}

// plain keys are group ids as they are.
func plain(key string) bool {
	for i := range len(key) {
		if key[i] < '!' || key[i] > '~' {
			return false
		}
	}
	return len(key) <= 128
}

func differing(a, b map[string]string) []string {
	names := map[string]bool{}
	for name := range a {
		if other, ok := b[name]; !ok || other != a[name] {
			names[name] = true
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}
