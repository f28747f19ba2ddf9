// Package routeros drives one MikroTik ROSE Data Server over SSH: the disks that are ours on its pool, and their
// exports. It touches no disk without our mark in its comment, never lists /file (minutes on a large tree), never
// uses copy-from (it copies the configuration, not the data), and never takes a failed look-up for "does not exist".
package routeros
