package main

import (
	"fmt"
	"time"
)

func windowProbes() []probe {
	return []probe{{"deduplication ids of SQS FIFO and SNS FIFO after 4:30 and after 5:30", func(l *lab) string {
		q := l.queue(".fifo", nil)
		arn, behind := l.topic(".fifo", raw)
		both := func() string {
			must(l.send(q, "b", "g", "d"))
			must(0, l.publish(arn, "b", "g", "d", nil))
			return fmt.Sprintf("SQS %d, SNS %d delivered", len(l.drain(q)), len(l.drain(behind)))
		}
		began, text := time.Now(), both()
		for _, at := range []time.Duration{270 * time.Second, 330 * time.Second} {
			time.Sleep(time.Until(began.Add(at)))
			text += fmt.Sprintf("; after %s: %s", at, both())
		}
		return text
	}}}
}
