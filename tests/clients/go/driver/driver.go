// Package driver is what the Go clients have in common; see tests/clients/driver.rs for the protocol.
package driver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

const timeout = 30 * time.Second

// Case is one request to sign and send.
type Case struct {
	Name            string            `json:"name"`
	Method          string            `json:"method"`
	URL             string            `json:"url"`
	Headers         map[string]string `json:"headers"`
	Body            string            `json:"body"`
	AccessKeyID     string            `json:"access_key_id"`
	SecretAccessKey string            `json:"secret_access_key"`
	SessionToken    *string           `json:"session_token"`
	Region          string            `json:"region"`
	Service         string            `json:"service"`
	ExpiresSeconds  int               `json:"expires_seconds"`
}

// Token is the session token, empty if there is none.
func (c Case) Token() string {
	if c.SessionToken == nil {
		return ""
	}
	return *c.SessionToken
}

// Request is the case before it is signed.
func (c Case) Request() (*http.Request, error) {
	request, err := http.NewRequest(c.Method, c.URL, bytes.NewReader([]byte(c.Body)))
	if err != nil {
		return nil, err
	}
	for name, value := range c.Headers {
		request.Header.Set(name, value)
	}
	return request, nil
}

type announcement struct {
	Client  string `json:"client"`
	Version string `json:"version"`
}

type answer struct {
	Case   string `json:"case"`
	Status int    `json:"status"`
	Body   string `json:"body"`
}

// Main signs and sends every case on standard input.
func Main(client, version string, sign func(Case) (*http.Request, error)) {
	if err := run(client, version, sign); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(client, version string, sign func(Case) (*http.Request, error)) error {
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(announcement{client, version}); err != nil {
		return err
	}
	http.DefaultClient.Timeout = timeout
	in := json.NewDecoder(os.Stdin)
	for in.More() {
		var c Case
		if err := in.Decode(&c); err != nil {
			return err
		}
		request, err := sign(c)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return err
		}
		if err := out.Encode(answer{c.Name, response.StatusCode, string(body)}); err != nil {
			return err
		}
	}
	return nil
}
