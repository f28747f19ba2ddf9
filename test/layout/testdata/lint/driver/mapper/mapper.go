// Package mapper is imported by others.
package mapper
