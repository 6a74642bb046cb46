package sqlstore

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/bullpen-vm/bullpen/lease"
)

// row is a record as the database has it.
type row struct {
	key             string
	token, renewals int64
	data            string
	sum             string
}

// terms is what data holds, as JSON: people can ask for its parts in SQL.
type terms struct {
	Session string   `json:"session,omitempty"`
	Owner   string   `json:"owner,omitempty"`
	Lock    string   `json:"lock,omitempty"`
	Boot    string   `json:"boot,omitempty"`
	Note    string   `json:"note,omitempty"`
	TTL     int64    `json:"ttl_ns,omitempty"`
	Margin  int64    `json:"margin_ns,omitempty"`
	Since   [2]int64 `json:"since"` // seconds since 1970, and nanoseconds
	Renewed [2]int64 `json:"renewed"`
}

func stamp(t time.Time) [2]int64     { return [2]int64{t.Unix(), int64(t.Nanosecond())} }
func unstamp(s [2]int64) time.Time   { return time.Unix(s[0], s[1]).UTC() }
func storable(text string) bool      { return utf8.ValidString(text) && !strings.ContainsRune(text, 0) }
func pick(n uint64) int64            { return int64(min(n, math.MaxInt64)) } //nolint:gosec // bounded
func tokenIn(n int64) (uint64, bool) { return uint64(n), n > 0 }             //nolint:gosec // checked by the caller

// checkRecord refuses what would come back as another text. Owner and Note are
// for people; what is no text in them is replaced.
func checkRecord(r *lease.Record) error {
	for _, f := range []struct{ name, text string }{{"Key", r.Key}, {"Session", r.Session}, {"Lock", r.Lock}, {"Boot", r.Boot}} {
		if !storable(f.text) {
			return fmt.Errorf("sqlstore: Record.%s is %q, want UTF-8 without NUL", f.name, f.text)
		}
	}
	r.Owner, r.Note = strings.ToValidUTF8(r.Owner, "\uFFFD"), strings.ToValidUTF8(r.Note, "\uFFFD")
	return nil
}

// encode gives the text of all of r but key, token and renewals.
func encode(r *lease.Record) (string, error) {
	text, err := json.Marshal(terms{
		Session: r.Session, Owner: r.Owner, Lock: r.Lock, Boot: r.Boot, Note: r.Note,
		TTL: int64(r.TTL), Margin: int64(r.Margin), Since: stamp(r.Since), Renewed: stamp(r.Renewed),
	})
	if err != nil {
		return "", fmt.Errorf("sqlstore: record %q: %w", r.Key, err)
	}
	return string(text), nil
}

// checksum is what bullpen_sum computes in PostgreSQL.
func checksum(token, renewals int64, key, data string) string {
	b := make([]byte, 0, 48+len(key)+len(data))
	b = strconv.AppendInt(b, token, 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, renewals, 10)
	b = append(b, ' ')
	b = append(b, key...)
	b = append(b, ' ')
	b = append(b, data...)
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:8])
}

// record checks a row and gives what it holds.
func (r *row) record() (lease.Record, error) {
	if want := checksum(r.token, r.renewals, r.key, r.data); r.sum != want {
		return lease.Record{}, fmt.Errorf("%w: the row of %q (token %d, renewals %d) has checksum %.20q, want %q", ErrDamaged, r.key, r.token, r.renewals, r.sum, want)
	}
	token, ok := tokenIn(r.token)
	if !ok || r.renewals < 0 {
		return lease.Record{}, fmt.Errorf("%w: the row of %q has token %d and %d renewals", ErrDamaged, r.key, r.token, r.renewals)
	}
	var t terms
	if err := json.Unmarshal([]byte(r.data), &t); err != nil {
		return lease.Record{}, fmt.Errorf("%w: the row of %q: %w", ErrDamaged, r.key, err)
	}
	return lease.Record{
		Key: r.key, Token: token, Renewals: uint64(r.renewals), //nolint:gosec // checked above
		Session: t.Session, Owner: t.Owner, Lock: t.Lock, Boot: t.Boot, Note: t.Note,
		TTL: time.Duration(t.TTL), Margin: time.Duration(t.Margin), Since: unstamp(t.Since), Renewed: unstamp(t.Renewed),
	}, nil
}

// successor gives the least text above all that start with prefix; none is above
// those with an empty prefix. Code points are in the order of their bytes.
func successor(prefix string) (next string, ok bool) {
	for prefix != "" {
		r, size := utf8.DecodeLastRuneInString(prefix)
		prefix = prefix[:len(prefix)-size]
		if r == utf8.MaxRune {
			continue
		}
		if r++; r == 0xD800 {
			r = 0xE000 // no code points between them
		}
		return prefix + string(r), true
	}
	return "", false
}
