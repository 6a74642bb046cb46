package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"net"
)

// linked gives both ends of a socket pair.
func linked(t *testing.T) (*link, *link) {
	t.Helper()
	ours, file, err := socketPair()
	require.NoError(t, err)
	theirs, err := net.FileConn(file)
	require.NoError(t, err)
	require.NoError(t, file.Close())
	a, b := newLink(ours), newLink(theirs)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestAMessageIsAcknowledgedWhenTheOtherSideHasTakenItNotBefore(t *testing.T) {
	t.Parallel()
	a, b := linked(t)
	sent := make(chan error, 1)
	go func() { sent <- a.Send(t.Context(), message{Kind: sayRun, Group: "g", Tests: []string{"x", "y"}}) }()
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	select {
	case err := <-sent:
		t.Fatal("acknowledged before it was taken", err)
	case <-short.Done():
	}
	m, err := b.Receive(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"x", "y"}, m.Tests, "a group is sent whole")
	require.NoError(t, <-sent)

	err = b.Send(short, message{Kind: sayDone})
	assert.ErrorContains(t, err, "done was not acknowledged")
}

func TestMessagesGoBothWaysAtOnceInTheirOrder(t *testing.T) {
	t.Parallel()
	a, b := linked(t)
	const n = 200
	talk := func(l *link, sent chan<- error) {
		for i := range n {
			if err := l.Send(t.Context(), message{Kind: sayEvent, Error: fmt.Sprint(i)}); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}
	hear := func(l *link, heard chan<- error) {
		for i := range n {
			m, err := l.Receive(t.Context())
			if err == nil && m.Error != fmt.Sprint(i) {
				err = fmt.Errorf("%s where %d is wanted", m.Error, i)
			}
			if err != nil {
				heard <- err
				return
			}
		}
		heard <- nil
	}
	all := make(chan error, 4)
	go talk(a, all)
	go talk(b, all)
	go hear(a, all)
	go hear(b, all)
	for range 4 {
		require.NoError(t, <-all)
	}
}

func TestTheEndOfTheOtherSideEndsEveryWait(t *testing.T) {
	t.Parallel()
	a, b := linked(t)
	sent, heard := make(chan error, 1), make(chan error, 1)
	go func() { sent <- a.Send(t.Context(), message{Kind: sayCollect}) }()
	go func() { _, err := a.Receive(t.Context()); heard <- err }()
	b.Close()
	assert.ErrorIs(t, <-sent, errLink)
	assert.ErrorIs(t, <-heard, errLink)
	assert.ErrorIs(t, a.Send(t.Context(), message{Kind: sayCollect}), errLink)
}
