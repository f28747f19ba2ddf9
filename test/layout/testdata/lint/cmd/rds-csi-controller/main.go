// Command rds-csi-controller knows the node.
package main

import _ "srvlab.io/rds-csi/driver/node" // want "depguard: the controller knows the array and no node"

func main() {}
