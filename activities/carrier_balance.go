package activities

import (
	"cmp"
	"slices"

	"github.com/temporal-outbox/relay/internal/relay"
)

// balance decides which shares a worker takes and gives back, so that all seated workers have the
// same number of shares, or one more than others. held are the shares that the worker has. All workers
// see the same list, so they come to the same result without talking to each other.
func balance(me relay.Worker, held []int16, seen relay.Shares) (take, giveBack []int16) {
	due, rank, seated := due(me, seen.Workers)
	if surplus := len(held) - due; surplus > 0 {
		// The lowest shares stay, so that people see ranges.
		return nil, slices.Clone(held[due:])
	}
	// Workers that take shares at the same time begin in different places.
	start := rank * relay.Lanes / max(seated, 1)
	for i := range relay.Lanes {
		lane := int16((start + i) % relay.Lanes)
		if len(held)+len(take) < due && seen.Holders[lane] == "" && !slices.Contains(held, lane) {
			take = append(take, lane)
		}
	}
	return take, nil
}

// due returns how many shares a worker is due, its rank among the seated workers, and their number.
// A worker without a seat is due none.
func due(me relay.Worker, workers []relay.Worker) (due, rank, seated int) {
	var ids []string
	for _, w := range workers {
		if w.ID != me.ID && w.Seated {
			ids = append(ids, w.ID)
		}
	}
	if !me.Seated {
		return 0, 0, len(ids)
	}
	ids = append(ids, me.ID)
	slices.SortFunc(ids, cmp.Compare[string])
	rank, seated = slices.Index(ids, me.ID), len(ids)
	due = relay.Lanes / seated
	if rank < relay.Lanes%seated {
		due++
	}
	return due, rank, seated
}
