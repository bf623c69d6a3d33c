package service

import "strings"

// nearest returns the name whose spelling is close to that of a word: at most a third of its
// letters, and at most three, are missing, added, replaced or swapped with a neighbour. Upper
// and lower case count as equal. It returns "" if there is none.
func nearest(word string, names []string) (near string) {
	most := min(3, max(1, len([]rune(word))/3))
	for _, name := range names {
		if d := distance(strings.ToLower(word), strings.ToLower(name)); d <= most {
			near, most = name, d-1
		}
	}
	return near
}

// distance counts the edits between two words, as optimal string alignment does.
func distance(a, b string) int {
	from, to := []rune(a), []rune(b)
	rows := make([][]int, len(from)+1)
	for i := range rows {
		rows[i] = make([]int, len(to)+1)
		rows[i][0] = i
	}
	for j := range to {
		rows[0][j+1] = j + 1
	}
	for i := range from {
		for j := range to {
			d := rows[i][j]
			if from[i] != to[j] {
				d++
			}
			d = min(d, rows[i][j+1]+1, rows[i+1][j]+1)
			if i > 0 && j > 0 && from[i] == to[j-1] && from[i-1] == to[j] {
				d = min(d, rows[i-1][j-1]+1)
			}
			rows[i+1][j+1] = d
		}
	}
	return rows[len(from)][len(to)]
}
