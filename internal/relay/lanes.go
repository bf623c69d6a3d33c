package relay

import (
	"strconv"
	"strings"
)

// FormatLanes writes ascending lanes the way people read them: "0-3,7,12-15".
func FormatLanes(lanes []int16) string {
	var b strings.Builder
	for i := 0; i < len(lanes); {
		j := i
		for j+1 < len(lanes) && lanes[j+1] == lanes[j]+1 {
			j++
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(int(lanes[i])))
		if j > i {
			b.WriteByte('-')
			b.WriteString(strconv.Itoa(int(lanes[j])))
		}
		i = j + 1
	}
	return b.String()
}
