// Sends signed requests as the AWS SDK for Go v2 does; see tests/clients/driver.rs for the protocol.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"../driver"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

func sign(c driver.Case) (*http.Request, error) {
	request, err := c.Request()
	if err != nil {
		return nil, err
	}
	credentials := aws.Credentials{
		AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, SessionToken: c.Token(),
	}
	digest := sha256.Sum256([]byte(c.Body))
	hash := hex.EncodeToString(digest[:])
	signer := v4.NewSigner()
	if c.ExpiresSeconds == 0 {
		return request, signer.SignHTTP(
			context.Background(), credentials, request, hash, c.Service, c.Region, time.Now())
	}
	query := request.URL.Query()
	query.Set("X-Amz-Expires", strconv.Itoa(c.ExpiresSeconds))
	request.URL.RawQuery = query.Encode()
	signed, headers, err := signer.PresignHTTP(
		context.Background(), credentials, request, hash, c.Service, c.Region, time.Now())
	if err != nil {
		return nil, err
	}
	for name, values := range headers {
		request.Header[name] = values
	}
	request.URL, err = url.Parse(signed)
	return request, err
}

func main() {
	driver.Main("aws-sdk-go-v2", aws.SDKVersion, sign)
}
