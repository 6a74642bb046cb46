package spool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

const mostRequest = 1 << 20 // bytes

// Serve answers clients on the listener until the context ends, then closes the
// queue. Who can open the socket can run programs: it belongs in a folder that only
// its user can enter.
func (q *Queue) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{Handler: q.handler(), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-ctx.Done()
		q.Close()
		_ = server.Close() // the listener is gone either way
	}()
	err := server.Serve(l)
	if ctx.Err() == nil {
		q.Close()
		return err
	}
	<-ended
	return nil
}

func (q *Queue) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /jobs", func(w http.ResponseWriter, r *http.Request) {
		var request Request
		if err := json.NewDecoder(io.LimitReader(r.Body, mostRequest)).Decode(&request); err != nil {
			answer(w, nil, err)
			return
		}
		id, err := q.Submit(request)
		answer(w, id, err)
	})
	mux.HandleFunc("GET /jobs", func(w http.ResponseWriter, _ *http.Request) { answer(w, q.Jobs(), nil) })
	mux.HandleFunc("GET /jobs/{id}", func(w http.ResponseWriter, r *http.Request) {
		j, err := q.Poll(r.PathValue("id"))
		answer(w, j, err)
	})
	for verb, do := range map[string]func(string) error{"cancel": q.Cancel, "suspend": q.Suspend, "resume": q.Resume} {
		mux.HandleFunc("POST /jobs/{id}/"+verb, func(w http.ResponseWriter, r *http.Request) {
			answer(w, nil, do(r.PathValue("id")))
		})
	}
	return mux
}

func answer(w http.ResponseWriter, v any, err error) {
	switch {
	case errors.Is(err, ErrUnknown):
		http.Error(w, err.Error(), http.StatusNotFound)
	case errors.Is(err, ErrClosed):
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
	default:
		_ = json.NewEncoder(w).Encode(v) // a client that is gone asks again
	}
}

// Client speaks to the queue behind a socket. Close it when it is no longer used.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient makes a client; it connects with the first call.
func NewClient(socket string) *Client {
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}}
}

// Close gives the connections back.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://spool"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	w, err := c.http.Do(r)
	if err != nil {
		return fmt.Errorf("spool at %s: %w", c.socket, err)
	}
	defer w.Body.Close()
	if w.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(w.Body, 4096)) // the code says enough
		kind := errors.New("refused")
		switch w.StatusCode {
		case http.StatusNotFound:
			kind = ErrUnknown
		case http.StatusServiceUnavailable:
			kind = ErrClosed
		}
		return fmt.Errorf("spool at %s: %s %s: %w: %s", c.socket, method, path, kind, bytes.TrimSpace(text))
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(w.Body).Decode(out)
}

// Submit is Queue.Submit.
func (c *Client) Submit(ctx context.Context, r Request) (id string, err error) {
	err = c.call(ctx, http.MethodPost, "/jobs", r, &id)
	return id, err
}

// Poll is Queue.Poll.
func (c *Client) Poll(ctx context.Context, id string) (j Job, err error) {
	err = c.call(ctx, http.MethodGet, "/jobs/"+id, nil, &j)
	return j, err
}

// Jobs is Queue.Jobs.
func (c *Client) Jobs(ctx context.Context) (all []Job, err error) {
	err = c.call(ctx, http.MethodGet, "/jobs", nil, &all)
	return all, err
}

// Do is Queue.Cancel, Queue.Suspend or Queue.Resume, by its name in small letters.
func (c *Client) Do(ctx context.Context, verb, id string) error {
	return c.call(ctx, http.MethodPost, "/jobs/"+id+"/"+verb, nil, nil)
}
