package safety

import (
	"crypto/sha1" //nolint:gosec // RFC 9562 defines UUID version 5 over SHA-1; nothing secret depends on it
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// UUID is a volume's 128-bit identity, from which slot, NQN and file name are made.
type UUID [16]byte

// ParseUUID gives the UUID written as 8-4-4-4-12 lower-case hexadecimal digits, the one form that String writes.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	if len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' {
		b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
		if err == nil && len(b) == len(u) {
			copy(u[:], b)
			if u.String() == s {
				return u, nil
			}
		}
	}
	return UUID{}, fmt.Errorf("UUID %q: is not 8-4-4-4-12 lower-case hexadecimal digits", s)
}

// String gives the UUID in lower-case 8-4-4-4-12 form.
func (u UUID) String() string {
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// Name spaces of the version 5 UUIDs made here: random, fixed for ever. Changing one would give every node a new
// host NQN and every volume that is not named pvc-<uuid> a new slot.
var (
	hostSpace   = UUID{0x6b, 0x1f, 0x0c, 0x5e, 0x9d, 0x3a, 0x4b, 0x77, 0x8e, 0x21, 0x5d, 0xc4, 0x0a, 0x96, 0xf3, 0x18}
	volumeSpace = UUID{0x2e, 0x84, 0xb9, 0x70, 0x13, 0xc6, 0x4f, 0x0d, 0xa5, 0x5b, 0x71, 0xe8, 0x3d, 0x42, 0x96, 0xbf}
)

// uuid5 is the name-based UUID of RFC 9562, 5.5. The parts are joined by a NUL, which occurs in none of them.
func uuid5(space UUID, parts ...string) UUID {
	h := sha1.New() //nolint:gosec // see the import
	h.Write(space[:])
	h.Write([]byte(strings.Join(parts, "\x00")))
	var u UUID
	copy(u[:], h.Sum(nil))
	u[6] = u[6]&0x0f | 0x50
	u[8] = u[8]&0x3f | 0x80
	return u
}

// VolumeUUID gives the identity of the volume called name (CSI's CreateVolumeRequest.name, a PersistentVolume's
// name): the UUID in it where the name is "pvc-<uuid>", as external-provisioner makes it, else a hash of the name
// and the managed prefix, so that two clusters on one array may both have a volume "data".
func VolumeUUID(p Prefix, name string) UUID {
	if rest, ok := strings.CutPrefix(name, "pvc-"); ok {
		if u, err := ParseUUID(rest); err == nil {
			return u
		}
	}
	return uuid5(volumeSpace, p.s, name)
}

// Slot is the name of a volume's disk on the array: "pvc-" and the 26 base32 characters of its UUID. RouterOS
// refuses slots of more than 32 characters, and pvc-<uuid> has 40.
type Slot string

const slotStart = "pvc-"

var slotCoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// SlotOf gives the slot of the volume u.
func SlotOf(u UUID) Slot { return Slot(slotStart + slotCoding.EncodeToString(u[:])) }

// ParseSlot gives the slot s and the UUID that it stands for, or an error if SlotOf never makes such a slot.
func ParseSlot(s string) (Slot, UUID, error) {
	var u UUID
	if rest, ok := strings.CutPrefix(s, slotStart); ok && len(rest) == slotCoding.EncodedLen(len(u)) {
		if b, err := slotCoding.DecodeString(rest); err == nil {
			copy(u[:], b)
			if SlotOf(u) == Slot(s) { // the last character has two unused bits: only one writing of it is ours
				return Slot(s), u, nil
			}
		}
	}
	return "", UUID{}, fmt.Errorf("slot %q: is not %q and the 26 base32 characters of a UUID", s, slotStart)
}

// UUID gives the identity in the slot; the zero UUID for a slot that ParseSlot refuses.
func (s Slot) UUID() UUID {
	_, u, err := ParseSlot(string(s))
	if err != nil {
		return UUID{}
	}
	return u
}

// FileStem gives the name, without directory and extension, of the file that carries the volume: "pvc-<uuid>". It can
// be derived from the slot alone, so a delete whose answer was lost still finds the file when the disk is gone.
func (s Slot) FileStem() string { return slotStart + s.UUID().String() }

// ArrayName names one array of the configuration: 1 to 20 of a-z, 0-9 and "-", starting and ending with a letter or
// digit. It is part of volume IDs, topology keys and device-mapper UUIDs, which have 128 bytes in all.
type ArrayName string

var arrayName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$`)

// ParseArrayName gives s as an ArrayName or says what it must look like.
func ParseArrayName(s string) (ArrayName, error) {
	if !arrayName.MatchString(s) {
		return "", fmt.Errorf("array name %q: must be 1 to 20 of a-z, 0-9 and \"-\", and start and end with a letter or digit", s)
	}
	return ArrayName(s), nil
}

// VolumeID is CSI's volume_id and a PersistentVolume's volumeHandle: "<array>/<slot>".
type VolumeID struct {
	Array ArrayName
	Slot  Slot
}

// ParseVolumeID takes a volume ID apart. An error means that no volume of this driver ever had that ID.
func ParseVolumeID(s string) (VolumeID, error) {
	array, slot, found := strings.Cut(s, "/")
	if !found {
		return VolumeID{}, fmt.Errorf("volume ID %q: is not <array>/<slot>", s)
	}
	a, errArray := ParseArrayName(array)
	sl, _, errSlot := ParseSlot(slot)
	if err := errors.Join(errArray, errSlot); err != nil {
		return VolumeID{}, fmt.Errorf("volume ID %q: is not <array>/<slot>: %w", s, err)
	}
	return VolumeID{a, sl}, nil
}

// String gives "<array>/<slot>".
func (v VolumeID) String() string { return string(v.Array) + "/" + string(v.Slot) }
