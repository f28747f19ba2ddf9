// Package routerostest is a RouterOS device with rose-storage in a program: its console, its storage, its NVMe/TCP
// exports and its SSH server, faithful to facts/routeros.md and switchable where that has gaps; it refuses to answer
// what nobody has documented, captured or named as a switch.
package routerostest
