// Package orbit is a client of Orbit: signs with the AWS SDK for Go v1, sends with net/http.
//
//	client, err := orbit.New("https://orbit.example.com", "us-east-1", nil)
//	answer, err := client.Dispatch(ctx, "call_reasoning", map[string]interface{}{"user_id": "user123"})
package orbit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go/aws/credentials"
	"github.com/aws/aws-sdk-go/aws/session"
	v4 "github.com/aws/aws-sdk-go/aws/signer/v4"
)

// Longest answer that is read, in bytes.
const answerBytesMax = 16 << 20

// Client is safe for concurrent use.
type Client struct {
	// HTTP sends the requests. Its timeout is above Orbit's own, so that Orbit's 503 arrives.
	HTTP *http.Client

	url    string
	region string
	signer *v4.Signer
}

// Error is what Orbit answers when it refuses or cannot answer. CorrelationID finds the request in Orbit's log; Code and
// Details are those of Orbit's error page, empty if the answer came from elsewhere.
type Error struct {
	Status        int
	Code          string
	Reason        string
	Details       map[string]interface{}
	CorrelationID string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%d %s: %s %v [%s]", e.Status, e.Code, e.Reason, e.Details, e.CorrelationID)
}

// Denied tells that governance does not allow it; Reason says why.
func (e *Error) Denied() bool {
	return e.Code == "GOVERNANCE_DENIED"
}

// New makes a client of the Orbit at url, which has no path. Without credentials it takes those of the AWS chain
// (environment, profile, container, instance), which renews temporary ones.
func New(url, region string, creds *credentials.Credentials) (*Client, error) {
	if creds == nil {
		s, err := session.NewSession()
		if err != nil {
			return nil, err
		}
		creds = s.Config.Credentials
	}
	return &Client{
		HTTP: &http.Client{
			Timeout: 70 * time.Second,
			// A signature holds for one host and path.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		url:    strings.TrimRight(url, "/"),
		region: region,
		signer: v4.NewSigner(creds),
	}, nil
}

// Dispatch asks Orbit to dispatch and gives the answer. The error is an *Error unless no answer came; an answer that is
// no JSON object, which an Axon may send, is one too.
func (c *Client) Dispatch(
	ctx context.Context, intent string, dispatchContext map[string]interface{},
) (map[string]interface{}, error) {
	if dispatchContext == nil {
		dispatchContext = map[string]interface{}{}
	}
	body, err := json.Marshal(map[string]interface{}{"intent": intent, "context": dispatchContext})
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/dispatch", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	// Hashes the body, adds X-Amz-Date and Authorization, and X-Amz-Security-Token for temporary credentials.
	if _, err = c.signer.Sign(request, bytes.NewReader(body), "execute-api", c.region, time.Now()); err != nil {
		return nil, err
	}
	return c.send(request, func(status int, _ map[string]interface{}) bool { return status == http.StatusOK })
}

// HealthCheck gives {"status": "healthy", …}, or "unhealthy" with what is wrong in "checks". It needs no signature.
func (c *Client) HealthCheck(ctx context.Context) (map[string]interface{}, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/health", nil)
	if err != nil {
		return nil, err
	}
	return c.send(request, func(status int, answer map[string]interface{}) bool {
		_, told := answer["status"].(string)
		return told && (status == http.StatusOK || status == http.StatusServiceUnavailable)
	})
}

// send gives the answer if it is a JSON object that is wanted.
func (c *Client) send(
	request *http.Request, wanted func(status int, answer map[string]interface{}) bool,
) (map[string]interface{}, error) {
	response, err := c.HTTP.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, answerBytesMax))
	if err != nil {
		return nil, err
	}
	var answer map[string]interface{}
	if json.Unmarshal(text, &answer) == nil && wanted(response.StatusCode, answer) {
		return answer, nil
	}
	failure := &Error{
		Status:        response.StatusCode,
		Reason:        response.Status,
		CorrelationID: response.Header.Get("X-Correlation-ID"),
	}
	failure.Code, _ = answer["code"].(string)
	failure.Details, _ = answer["details"].(map[string]interface{})
	for _, name := range []string{"reason", "error"} {
		if reason, ok := answer[name].(string); ok {
			failure.Reason = reason
			break
		}
	}
	return nil, failure
}
