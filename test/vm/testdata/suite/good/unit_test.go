package good

import "testing"

func TestUnit(t *testing.T) { t.Error("this one runs on the host only") }
