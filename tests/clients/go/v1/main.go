// Sends signed requests as the AWS SDK for Go v1 does; see tests/clients/driver.rs for the protocol.
package main

import (
	"bytes"
	"net/http"
	"time"

	"../driver"

	"github.com/aws/aws-sdk-go/aws"
	"github.com/aws/aws-sdk-go/aws/credentials"
	v4 "github.com/aws/aws-sdk-go/aws/signer/v4"
)

func sign(c driver.Case) (*http.Request, error) {
	request, err := c.Request()
	if err != nil {
		return nil, err
	}
	signer := v4.NewSigner(credentials.NewStaticCredentials(c.AccessKeyID, c.SecretAccessKey, c.Token()))
	body := bytes.NewReader([]byte(c.Body))
	if c.ExpiresSeconds > 0 {
		lifetime := time.Duration(c.ExpiresSeconds) * time.Second
		_, err = signer.Presign(request, body, c.Service, c.Region, lifetime, time.Now())
	} else {
		_, err = signer.Sign(request, body, c.Service, c.Region, time.Now())
	}
	return request, err
}

func main() {
	driver.Main("aws-sdk-go", aws.SDKVersion, sign)
}
