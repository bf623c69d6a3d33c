// Package ondisk keeps records in files, a number of parts that are read one by one, so
// that a run of any length is judged in little memory.
package ondisk

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// Records keeps records of one type. Records of the same key are in the same part, in the
// order in which they were put.
type Records[T any] struct {
	mu    sync.Mutex
	parts []part
	count int
	err   error // of the first Put that failed
}

type part struct {
	file   *os.File
	buffer *bufio.Writer
}

// New makes records in a directory that exists, in so many parts.
func New[T any](dir, name string, parts int) (*Records[T], error) {
	s := &Records[T]{}
	for n := range parts {
		file, err := os.Create(filepath.Join(dir, fmt.Sprintf("%s-%03d", name, n)))
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("make a file for records: %w", err)
		}
		s.parts = append(s.parts, part{file, bufio.NewWriterSize(file, 16<<10)})
	}
	return s, nil
}

// Put keeps a record. An error is returned by Read as well, so that those who cannot do
// anything about it need not look.
func (s *Records[T]) Put(key string, record T) error {
	text, err := json.Marshal(record)
	hash := fnv.New32a()
	_, _ = io.WriteString(hash, key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		_, err = s.parts[hash.Sum32()%uint32(len(s.parts))].buffer.Write(append(text, '\n')) //nolint:gosec // there are few parts
	}
	s.count++
	if err != nil && s.err == nil {
		s.err = fmt.Errorf("keep a record: %w", err)
	}
	return err
}

// Count is how many records were put.
func (s *Records[T]) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// Parts is how many parts there are.
func (s *Records[T]) Parts() int { return len(s.parts) }

// Read gives all records of a part to each.
func (s *Records[T]) Read(n int, each func(T)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	p := s.parts[n]
	if err := p.buffer.Flush(); err != nil {
		return fmt.Errorf("write what was kept: %w", err)
	}
	if _, err := p.file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read what was kept: %w", err)
	}
	for in := json.NewDecoder(bufio.NewReaderSize(p.file, 256<<10)); ; {
		var record T
		switch err := in.Decode(&record); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read what was kept: %w", err)
		}
		each(record)
	}
}

// Close removes the files.
func (s *Records[T]) Close() {
	for _, p := range s.parts {
		_ = p.file.Close()
		_ = os.Remove(p.file.Name())
	}
}
