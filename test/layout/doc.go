// Package layout holds the rules of the house as tests: which packages there are, what each may import and link, what
// every Reason, make target and skipped test owes the reader. It refuses what is not in its tables, so a new package or
// arrow is a decision that somebody writes down here, with its reason.
package layout
