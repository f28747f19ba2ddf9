//go:build kernel

package skips

import "testing"

func TestAllowed(t *testing.T) { t.Skip("kernel: 6.1 has no authentication") }
func TestLazy(t *testing.T)    { t.Skip("needs root") }
func TestSilent(t *testing.T)  { t.SkipNow() }
func TestSays(t *testing.T)    { t.Log("kernel: not the reason"); t.Skip("flaky") }
