package routerostest

// Backend is what is real about a box. The Box calls it with its own lock held and keeps all accounts itself; a back
// end only makes files and exports happen. Paths are as /file names them: no leading slash, the pool's mount point
// first.
type Backend interface {
	// Mount prepares the mount point of a pool and gives the files and directories (with a trailing slash) that are
	// there already.
	Mount(point string) (map[string]int64, error)
	Mkdir(path string) error
	Create(path string, size int64, thick bool) error
	Resize(path string, size int64, thick bool) error
	Copy(src, dst string) error
	Rename(src, dst string) error
	Remove(path string) error // a file or an empty directory
	// Probe names the file system in a file, "" for none.
	Probe(path string) string

	Export(Export) error
	Unexport(nqn string) error
	// SetHost changes who may connect ("": everybody) and leaves live connections alone.
	SetHost(nqn, host string) error
	// Announce tells initiators of a namespace's new size.
	Announce(nqn string) error
	// Listen makes the NVMe port answer although nothing is exported, or no longer.
	Listen(on bool) error
	Close() error
}

// Export is a disk that initiators can reach.
type Export struct {
	NQN, Path string
	AllowHost string // host NQN; "": every host
	Port      uint16
	Slot      string
	Named     bool // show model and serial (switch target-model)
}

// memory is the back end without anything real.
type memory struct{}

func (memory) Mount(string) (map[string]int64, error) { return nil, nil }
func (memory) Mkdir(string) error                     { return nil }
func (memory) Create(string, int64, bool) error       { return nil }
func (memory) Resize(string, int64, bool) error       { return nil }
func (memory) Copy(string, string) error              { return nil }
func (memory) Rename(string, string) error            { return nil }
func (memory) Remove(string) error                    { return nil }
func (memory) Probe(string) string                    { return "" }
func (memory) Export(Export) error                    { return nil }
func (memory) Unexport(string) error                  { return nil }
func (memory) SetHost(string, string) error           { return nil }
func (memory) Announce(string) error                  { return nil }
func (memory) Listen(bool) error                      { return nil }
func (memory) Close() error                           { return nil }
