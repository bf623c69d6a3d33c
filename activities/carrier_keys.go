package activities

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/temporal-outbox/relay/internal/relay"
)

// A FIFO destination gets one event of a key after the other. A key with more events than its destination
// accepts would soon fill a carrier's hands, and all other keys would wait. So a carrier takes only some
// events of each key, and leaves the others pending: the key is hot. The carrier remembers from which id on
// it has left events of the key, and reads these when the key has few left in hand. It takes no later event of
// the key before.

const (
	// keyMost is how many events of one key are in hand at most without an answer, and keyLeast how many
	// may be even if there is little room. Between the two, a key has one part in keyShare of the room.
	keyMost  = 100
	keyLeast = 8
	keyShare = 8
	// hotKeysMost bounds the hot keys that a carrier remembers. It takes all events of further ones.
	hotKeysMost = 1000
	// hotLeast is how many events of a lane are read at least to find those of hot keys, and hotWidest how often
	// that is doubled at most while events of others stand before them.
	hotLeast  = 32
	hotWidest = 5
)

// hotKey is a key of which events were left pending.
type hotKey struct {
	lane int16
	// after is the id up to which no event of the key is left, and none can come any more. It is final: see
	// pages.
	after int64
	read  uint64 // the turn in which its events were read last; 0: never
	wide  int    // how often reads in a row have found only events of other keys
}

// keyLimit is how many events of a key may be in hand without an answer.
func (h *hands) keyLimit() int {
	return min(h.keyMost, max(keyLeast, (carryEvents-h.events)/keyShare))
}

// keys are those of events whose contents have not come along, as far as they were read.
type keys map[relay.Ref]string

// of returns the key of an event that pages have found, if it is known. Only that of an ordered topic is of use.
func (k keys) of(t *carriedTopic, e relay.Narrow) (key string, known bool) {
	if !t.isOrdered {
		return "", false
	}
	if e.Content != nil {
		return e.Content.Key, true
	}
	key, known = k[e.Ref]
	return key, known
}

// admit reports whether an event of a key is to be taken now. If not, it is left pending, and so are all later
// ones of the key, until they are read again. Events without a key, or with one that is not known, are taken.
func (h *hands) admit(t *carriedTopic, key string, ref relay.Ref) bool {
	if key == "" {
		return true
	}
	if hot := t.hot[key]; hot != nil {
		hot.after = min(hot.after, ref.ID-1)
		return false
	}
	if t.keys[key] < h.keyLimit() || h.hotKeys >= hotKeysMost {
		return true
	}
	if t.hot == nil {
		t.hot = make(map[string]*hotKey)
	}
	t.hot[key] = &hotKey{lane: ref.Lane, after: min(ref.ID-1, h.final)}
	h.hotKeys++
	return false
}

// countKey notes that an event of a key is in hand and has no answer.
func (t *carriedTopic) countKey(key string) {
	if key == "" {
		return
	}
	if t.keys == nil {
		t.keys = make(map[string]int)
	}
	t.keys[key]++
}

// uncountKey notes that an event of a key has its answer, or is not in hand any more.
func (h *hands) uncountKey(t *carriedTopic, key string) {
	if key == "" {
		return
	}
	if t.keys[key]--; t.keys[key] <= 0 {
		delete(t.keys, key)
	}
	if t.hot[key] != nil && h.isDue(t, key) {
		signal(h.wakeReader)
	}
}

// isDue reports whether so few events of a hot key are in hand that the next ones should be read.
func (h *hands) isDue(t *carriedTopic, key string) bool { return t.keys[key] <= h.keyLimit()/2 }

// forgetHot forgets the hot keys of a lane that this worker does not read any more.
func (h *hands) forgetHot(t *carriedTopic, lane int16) {
	for key, hot := range t.hot {
		if hot.lane == lane {
			h.endHot(t, key)
		}
	}
}

// endHot notes that no event of a key is left any more.
func (h *hands) endHot(t *carriedTopic, key string) {
	delete(t.hot, key)
	h.hotKeys--
}

// isLeft reports whether an event may have been left because its key is hot.
func (h *hands) isLeft(topic string, ref relay.Ref) bool {
	if t := h.topics[topic]; t != nil {
		for _, hot := range t.hot {
			if hot.lane == ref.Lane && hot.after < ref.ID {
				return true
			}
		}
	}
	return false
}

// inHandAbove is how many events of a lane are in hand that a read from a cursor on finds again.
func (h *hands) inHandAbove(c *relay.LaneCursor) (n int) {
	t := h.topics[c.Topic]
	if t.count[c.Lane] == 0 {
		return 0
	}
	for ref := range t.hand {
		if ref.Lane == c.Lane && c.Covers(ref) {
			n++
		}
	}
	return n
}

// sift returns those of a topic's loaded events that are to be sent. Others are left pending, because of their
// keys, which may be known only now. What is left of a key takes along what is in the queue behind it: that
// would be sent before it. loaded are the events as they were in t.loading.
func (h *hands) sift(t *carriedTopic, loaded []relay.Narrow, events []relay.Event) []relay.Event {
	if !t.isOrdered {
		return events
	}
	left := make(map[string]bool)
	n := -1
	events = slices.DeleteFunc(events, func(e relay.Event) bool {
		n++
		taken, inHand := t.hand[e.Ref]
		if !inHand || loaded[n].Ref != e.Ref {
			return true // left already
		}
		key := e.Key
		if taken.key == "" && key != "" { // it was not found when keys were read, because its row had moved
			taken.keyed = false
		}
		if taken.keyed {
			key = taken.key
		}
		if left[key] || !taken.keyed && !h.admit(t, key, e.Ref) {
			left[key] = true
			h.leaveEvent(t, e.Ref, key)
			return true
		}
		if !taken.keyed {
			taken.key, taken.keyed = key, true
			t.hand[e.Ref] = taken
			t.countKey(key)
		}
		return false
	})
	if len(left) > 0 {
		h.leaveQueued(t, left)
	}
	if len(t.hot) > 0 {
		signal(h.wakeReader)
	}
	return events
}

// leaveEvent leaves an event of a hot key pending that was in hand.
func (h *hands) leaveEvent(t *carriedTopic, ref relay.Ref, key string) {
	h.forget(t, ref)
	t.hot[key].after = min(t.hot[key].after, ref.ID-1)
}

// leaveQueued leaves the events of hot keys pending whose contents are still to be loaded, or are being loaded. Those
// that are being loaded keep their place in t.loading without their Ref: they may be taken again before the load ends.
func (h *hands) leaveQueued(t *carriedTopic, keys map[string]bool) {
	for _, queued := range [][]relay.Narrow{t.loading, t.queue} {
		for i, e := range queued {
			if taken, is := t.hand[e.Ref]; is && taken.keyed && keys[taken.key] {
				h.leaveEvent(t, e.Ref, taken.key)
				queued[i].Ref = relay.Ref{}
			}
		}
	}
	before := len(t.queue)
	t.queue = slices.DeleteFunc(t.queue, func(e relay.Narrow) bool {
		_, is := t.hand[e.Ref]
		return !is
	})
	if len(t.queue) < before && t.allowance != nil {
		t.allowance.withdraw() // it has asked for other events
		signal(h.wakeLoader)
	}
}

// isSure reports whether the keys of all events are known that are still to be handed to the sender, and none
// of them will be left. Until then, an event of a hot key that is read now might be sent before an earlier one.
func (t *carriedTopic) isSure() bool {
	for _, queued := range [][]relay.Narrow{t.loading, t.queue} {
		for _, e := range queued {
			if !t.hand[e.Ref].keyed {
				return false
			}
		}
	}
	return true
}

// keyless returns those of some events whose keys have to be read before they are taken: they are new, their
// contents did not come along, and their topic has hot keys, or had when the read was planned.
func (h *hands) keyless(r *read, planned bool, events []relay.Narrow) (list []relay.Narrow) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hotKeys == 0 && !planned {
		return nil
	}
	for _, e := range events {
		if t := h.topics[e.Topic]; t != nil && (planned || len(t.hot) > 0) && e.Content == nil && h.isNew(r, e.Topic, e.Ref) {
			list = append(list, e)
		}
	}
	return list
}

// hotPage is a page of a lane in which events of hot keys are to be found.
type hotPage struct {
	cursor relay.LaneCursor
	keys   map[string]wantedKey
	read   uint64 // when the first was read last
}

// wantedKey is a hot key whose events are wanted after an id.
type wantedKey struct {
	hot   *hotKey
	after int64
}

// hotPages chooses the lanes in which the next events of hot keys are read. Each page begins with the key that
// has waited longest, and takes along those that were left behind it.
func (h *hands) hotPages(p readPlan) (pages []hotPage) {
	if h.hotKeys == 0 {
		return nil
	}
	for _, t := range h.topics {
		if len(t.hot) == 0 || t.dropping != 0 || h.allowance(t, 0) == 0 {
			continue
		}
		due := make(map[int16][]string)
		for key, hot := range t.hot {
			l, s := t.lanes[hot.lane], p.shares[hot.lane]
			if (l == nil || l.mode == backlog) && s != nil && s.discovered && h.isDue(t, key) {
				due[hot.lane] = append(due[hot.lane], key)
			}
		}
		if len(due) == 0 || !t.isSure() {
			continue
		}
		for lane, keys := range due {
			pages = append(pages, h.hotPage(t, lane, keys))
		}
	}
	slices.SortFunc(pages, func(a, b hotPage) int {
		return cmp.Or(cmp.Compare(a.read, b.read), cmp.Compare(a.cursor.Topic, b.cursor.Topic), cmp.Compare(a.cursor.Lane, b.cursor.Lane))
	})
	room := p.room
	for i := range pages {
		c := &pages[i].cursor
		room -= c.Most
		c.Most += h.inHandAbove(c)
		if room <= 0 || i+1 == pagesLanes {
			return pages[:i+1]
		}
	}
	return pages
}

// hotPage is the page for hot keys of one lane.
func (h *hands) hotPage(t *carriedTopic, lane int16, keys []string) hotPage {
	first := t.hot[slices.MinFunc(keys, func(a, b string) int {
		return cmp.Or(cmp.Compare(t.hot[a].read, t.hot[b].read), cmp.Compare(t.hot[a].after, t.hot[b].after))
	})]
	page := hotPage{
		cursor: relay.LaneCursor{TopicLane: relay.TopicLane{Topic: t.name, Lane: lane}, After: first.after},
		keys:   make(map[string]wantedKey), read: first.read,
	}
	wide := 0
	for _, key := range keys {
		if hot := t.hot[key]; hot.after >= first.after {
			page.keys[key] = wantedKey{hot, hot.after}
			page.cursor.Most += 2 * (h.keyLimit() - t.keys[key]) // others are between them
			wide = max(wide, hot.wide)
		}
	}
	page.cursor.Most = min(max(page.cursor.Most, hotLeast), pagesEvents) << wide
	return page
}

// hotPaged takes the events of hot keys that pages have, as many as may be in hand. A key of which nothing is
// left then is not hot any more. An event without a key is taken, too. got reports whether the pages have
// brought the carrier on.
func (h *hands) hotPaged(r *read, p readPlan, pages relay.Pages, keys keys, asked time.Time) (got bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var taken []relay.Narrow
	found, full := byLane(pages)
	h.turns++
	for _, page := range p.hot {
		at := page.cursor.TopicLane
		t := h.topics[at.Topic]
		if t == nil || !h.readable(p, pages.Held, at.Lane) || t.dropping != 0 || !t.isSure() || h.mustLeave(at.Topic) {
			continue
		}
		if l := t.lanes[at.Lane]; l != nil && l.mode != backlog {
			continue
		}
		wanted := make(map[string]*hotKey)
		for key, want := range page.keys {
			if hot := t.hot[key]; hot == want.hot && hot.after == want.after {
				wanted[key] = hot
				hot.read = h.turns
			}
		}
		if len(wanted) == 0 {
			continue
		}
		had, isWide := len(taken), !full[at]
		end := int64(math.MaxInt64) // all events below are read
		if full[at] {
			end = page.cursor.After
		}
		for _, e := range found[at] {
			if full[at] {
				end = max(end, min(e.Ref.ID-1, pages.Final)) // a replay may have the same id
			}
			if !h.isNew(r, at.Topic, e.Ref) {
				continue
			}
			key, known := keys.of(t, e)
			if !known { // it was in hand when keys were read
				end, isWide = min(end, e.Ref.ID-1, pages.Final), true
				break
			}
			hot := wanted[key]
			if key != "" && (hot == nil || e.Ref.ID <= hot.after) {
				continue
			}
			if h.isTooLarge(at.Topic, e.Ref, e.Bytes) {
				break // the topic has left
			}
			if t.keys[key] < h.keyLimit() && h.take(e, born(relay.Event{Ref: e.Ref, CreatedAt: e.CreatedAt}, asked, pages.At), key, true) {
				taken = append(taken, e)
				continue
			}
			if key == "" {
				end = min(e.Ref.ID-1, pages.Final)
				break
			}
			if after := min(e.Ref.ID-1, pages.Final); after > hot.after {
				hot.after, got = after, true
			}
			delete(wanted, key)
		}
		for key, hot := range wanted {
			switch {
			case t.hot[key] != hot: // the topic has left
			case end == math.MaxInt64:
				h.endHot(t, key)
				got = true
			case end > hot.after:
				hot.after = end
				got = true
			case !isWide && len(taken) == had: // only events of other keys
				if hot.wide < hotWidest {
					hot.wide, got = hot.wide+1, true
				}
				continue
			}
			hot.wide = 0
		}
		h.tidy(at.Topic)
	}
	h.enqueue(taken)
	return got || len(taken) > 0
}

// byLane returns the events of pages by lane, and which lanes may have more.
func byLane(pages relay.Pages) (found map[relay.TopicLane][]relay.Narrow, full map[relay.TopicLane]bool) {
	found, full = make(map[relay.TopicLane][]relay.Narrow), make(map[relay.TopicLane]bool)
	for rest := pages.Events; len(rest) > 0; {
		at := topicLane(rest[0])
		n := slices.IndexFunc(rest, func(e relay.Narrow) bool { return topicLane(e) != at })
		if n < 0 {
			n = len(rest)
		}
		if found[at] == nil {
			found[at] = rest[:n:n] // in most cases all events of a lane come one after the other
		} else {
			found[at] = append(found[at], rest[:n]...)
		}
		rest = rest[n:]
	}
	for _, at := range pages.Full {
		full[at] = true
	}
	return found, full
}

func topicLane(e relay.Narrow) relay.TopicLane {
	return relay.TopicLane{Topic: e.Topic, Lane: e.Ref.Lane}
}
