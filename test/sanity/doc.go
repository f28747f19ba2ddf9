// Package sanity runs the complete csi-sanity suite against controller and node, and looks at what csi-sanity never
// looks at: the mount table after every call. It holds tests only and refuses to skip what a capability of ours covers.
package sanity
