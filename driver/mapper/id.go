package mapper

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"srvlab.io/rds-csi/safety"
)

// ID is what a mapping is for. It is written into the mapping's UUID, so the kernel keeps it: a driver that has just
// started finds there all that it needs to reconnect a volume.
type ID struct {
	Slot       safety.Slot
	Generation safety.Generation
	Address    netip.Addr // of the array's portal, without a zone
	Port       uint16
	Array      safety.ArrayName
}

// uuidStart marks a mapping as ours.
const uuidStart = "RDSCSI-"

// UUID gives "RDSCSI-<slot>_g<generation>_<address>_<port>_<array>": at most 126 of the 128 bytes that the kernel
// takes, and only characters that libdevmapper leaves unescaped.
func (id ID) UUID() string {
	return uuidStart + string(id.Slot) + "_g" + strconv.FormatUint(uint64(id.Generation), 10) + "_" +
		id.Address.String() + "_" + strconv.Itoa(int(id.Port)) + "_" + string(id.Array)
}

// Name gives the mapping's name, "rdscsi-<slot>": the kernel refuses a second mapping of that name, so a volume has
// one at most, whatever its generation.
func (id ID) Name() string { return nameOf(id.Slot) }

const nameStart = "rdscsi-"

func nameOf(s safety.Slot) string { return nameStart + string(s) }

// check refuses an ID that ParseUUID would not give back.
func (id ID) check() error {
	back, err := ParseUUID(id.UUID())
	if err != nil {
		return err
	}
	if back != id {
		return fmt.Errorf("mapping %q: would be read back as %+v", id.UUID(), back)
	}
	return nil
}

// ParseUUID takes a UUID made by ID.UUID apart. An error means that the mapping is not ours.
func ParseUUID(s string) (ID, error) {
	id, err := parseUUID(s)
	if err == nil && id.UUID() != s { // "g01" and "fe80::0" are not what UUID writes
		err = errors.New("is not in the one form that is written here")
	}
	if err == nil && len(s) > maxUUID {
		err = fmt.Errorf("is %d bytes long, more than %d", len(s), maxUUID)
	}
	if err != nil {
		return ID{}, fmt.Errorf("mapping UUID %q: %w", s, err)
	}
	return id, nil
}

func parseUUID(s string) (ID, error) {
	rest, ours := strings.CutPrefix(s, uuidStart)
	fields := strings.Split(rest, "_")
	if !ours || len(fields) != 5 {
		return ID{}, errors.New("is not " + uuidStart + "<slot>_g<generation>_<address>_<port>_<array>")
	}
	slot, _, errSlot := safety.ParseSlot(fields[0])
	number, isGeneration := strings.CutPrefix(fields[1], "g")
	generation, errGeneration := strconv.ParseUint(number, 10, 64)
	if !isGeneration {
		errGeneration = fmt.Errorf("generation %q: does not start with g", fields[1])
	}
	address, errAddress := netip.ParseAddr(fields[2])
	if errAddress == nil && address.Zone() != "" { // a zone is free text
		errAddress = fmt.Errorf("address %q: has a zone", fields[2])
	}
	port, errPort := strconv.ParseUint(fields[3], 10, 16)
	array, errArray := safety.ParseArrayName(fields[4])
	return ID{
		Slot: slot, Generation: safety.Generation(generation), Address: address, Port: uint16(port), Array: array,
	}, errors.Join(errSlot, errGeneration, errAddress, errPort, errArray)
}
