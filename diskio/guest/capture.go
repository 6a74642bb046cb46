package guest

import (
	"strings"
	"sync"

	"github.com/bullpen-vm/bullpen/diskio"
)

const (
	// recordAt is how much output is gathered before it is recorded, unless the
	// flush interval comes first.
	recordAt = 16 << 10
	// newsSize is how much output one progress message carries.
	newsSize = 4 << 10
)

// capture keeps the begin and the end of one stream of a step: the begin goes
// to the disk as it comes, the end is kept in memory, in a ring of a fixed size,
// until the stream ends.
type capture struct {
	rec                *diskio.Recorder
	part, step, stream int
	news               func(string) // nil: none

	mu      sync.Mutex // guards what follows; orders records of this stream
	head    int64      // bytes that still go to the disk at once
	pending []byte     // of the begin, not recorded yet
	at      int64      // offset of pending
	ring    []byte
	next    int   // where the ring's next byte goes, once it is full
	tail    int   // the ring's size
	total   int64 // bytes that came
	recent  []byte
}

func newCapture(rec *diskio.Recorder, part, step, stream, head, tail int, news func(string)) *capture {
	return &capture{rec: rec, part: part, step: step, stream: stream, head: int64(head), tail: tail, news: news}
}

// Write takes output. It never fails: what cannot be recorded shows in the
// recorder's own error, and a process must not block on it.
func (c *capture) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(b)
	c.total += int64(n)
	if c.news != nil {
		if n >= newsSize {
			c.recent = append(c.recent[:0], b[n-newsSize:]...)
		} else {
			if over := len(c.recent) + n - newsSize; over > 0 {
				c.recent = append(c.recent[:0], c.recent[over:]...)
			}
			c.recent = append(c.recent, b...)
		}
	}
	k := min(c.head, int64(n))
	c.pending = append(c.pending, b[:k]...)
	c.head -= k
	if len(c.pending) >= recordAt {
		c.record()
	}
	c.keep(b[k:])
	return n, nil
}

// keep puts bytes into the ring.
func (c *capture) keep(b []byte) {
	if len(b) > c.tail {
		b = b[len(b)-c.tail:]
	}
	if room := c.tail - len(c.ring); room > 0 && len(b) > 0 {
		k := min(room, len(b))
		c.ring = append(c.ring, b[:k]...)
		b = b[k:]
	}
	for len(b) > 0 {
		k := copy(c.ring[c.next:], b)
		c.next = (c.next + k) % c.tail
		b = b[k:]
	}
}

// record writes the pending bytes.
func (c *capture) record() {
	if len(c.pending) == 0 {
		return
	}
	_ = c.rec.Output(c.part, c.step, c.stream, c.at, c.pending) // kept by the recorder
	c.at += int64(len(c.pending))
	c.pending = c.pending[:0]
}

// flush records what is pending and tells the news.
func (c *capture) flush() {
	c.mu.Lock()
	c.record()
	news := ""
	if len(c.recent) > 0 {
		news = strings.ToValidUTF8(string(c.recent), "?")
		c.recent = c.recent[:0]
	}
	c.mu.Unlock()
	if news != "" {
		c.news(news)
	}
}

// finish records the end of the stream and gives its length.
func (c *capture) finish() int64 {
	c.flush()
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.total - int64(len(c.ring))
	for _, b := range [...][]byte{c.ring[c.next:], c.ring[:c.next]} {
		_ = c.rec.Output(c.part, c.step, c.stream, at, b) // kept by the recorder
		at += int64(len(b))
	}
	c.ring, c.next = nil, 0
	return c.total
}
