// Package safety is the vocabulary that all parts of rds-csi share (NQN, Prefix, Slot, Reason) and the rules
// that need nothing but their arguments; it refuses to read, write, log, wait or ask for the time.
package safety
