// Uses docs/clients/go as its readers would; see tests/clients/examples.rs.
//
//	example ORBIT FAKE
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	orbit "../../../../docs/clients/go"

	"github.com/aws/aws-sdk-go/aws/credentials"
)

type object = map[string]interface{}

func tell(step string, answer object, err error) {
	told := object{"step": step, "answer": answer}
	var refused *orbit.Error
	if errors.As(err, &refused) {
		told = object{
			"step": step, "denied": refused.Denied(), "status": refused.Status, "code": refused.Code,
			"reason": refused.Reason, "details": refused.Details, "correlation_id": refused.CorrelationID,
			"text": refused.Error(),
		}
	} else if err != nil {
		fail(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func client(url string, creds *credentials.Credentials) *orbit.Client {
	made, err := orbit.New(url, "us-east-1", creds)
	if err != nil {
		fail(err)
	}
	return made
}

func main() {
	ctx := context.Background()
	front, fake := client(os.Args[1], nil), client(os.Args[2], nil)
	stranger := client(os.Args[1], credentials.NewStaticCredentials("AKIDEXAMPLE", "wrong", ""))

	answer, err := front.HealthCheck(ctx)
	tell("healthy", answer, err)
	answer, err = front.Dispatch(ctx, "call_reasoning", object{"user_id": "Zoë 日本"})
	tell("dispatch", answer, err)
	answer, err = front.Dispatch(ctx, "forbidden", nil)
	tell("denied", answer, err)
	answer, err = stranger.Dispatch(ctx, "call_reasoning", nil)
	tell("refused", answer, err)
	answer, err = fake.HealthCheck(ctx)
	tell("unhealthy", answer, err)
	answer, err = fake.Dispatch(ctx, "call_reasoning", nil)
	tell("no answer of Orbit's", answer, err)
}
