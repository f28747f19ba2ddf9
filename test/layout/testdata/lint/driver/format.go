package driver

import (
	"google.golang.org/grpc/codes" // want "goimports: not properly formatted" "gofumpt: not properly formatted"
	"strings"
)

// Loose is not formatted as gofumpt wants it.
func Loose(c codes.Code) bool {

	return strings.Contains("", "") && c == 0
}
