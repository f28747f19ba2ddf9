// Package node is the CSI node service: it connects, formats, mounts, publishes, grows, repairs and takes apart the
// volumes of the managed prefix; it refuses to format what is not proven blank, to remove a directory with anything
// in it, and to touch whatever is not its own.
package node
