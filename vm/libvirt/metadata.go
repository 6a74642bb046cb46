package libvirt

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"time"

	"github.com/bullpen-vm/bullpen/vm"
)

// Namespace is the XML namespace of the driver's metadata in a domain: an
// element "machine" whose text is a JSON document. JSON carries any text, XML
// does not.
const Namespace = "https://github.com/bullpen-vm/bullpen/vm/libvirt/1"

// metadataKey is the prefix that libvirt is told to use for the namespace.
const metadataKey = "bullpen"

// record is what is written on the domain itself.
type record struct {
	Version  int       `json:"version"`
	Template string    `json:"template,omitempty"`
	Created  time.Time `json:"created"`
	Dir      string    `json:"dir,omitempty"` // the machine's folder, on the computer that made it
	// Incarnation is the one that the machine was made with: an owner that is
	// written later does not change it.
	Incarnation string   `json:"incarnation"`
	Owner       vm.Owner `json:"owner"`
	OnExit      string   `json:"on_exit"`
	// Accelerator, and why it was chosen, for people.
	Accelerator string `json:"accelerator,omitempty"`
	Why         string `json:"why,omitempty"`
	// What of the devices that it may have it has.
	Network bool `json:"network,omitempty"`
	Screen  bool `json:"screen,omitempty"`
	// On another computer: where its disks are, and what they are, for those
	// who did not make it.
	Pool string      `json:"pool,omitempty"`
	Spec *specRecord `json:"spec,omitempty"`
}

// extras are the capabilities that depend on a domain's devices.
func (r record) extras() vm.Set {
	var s vm.Set
	if r.Network {
		s |= vm.CanAddress
	}
	if r.Screen {
		s |= vm.CanScreenshot
	}
	return s
}

const recordVersion = 1

// encode gives the metadata's element.
func (r record) encode() (string, error) {
	text, err := json.Marshal(r) // escapes <, > and & by itself
	if err != nil {
		return "", err
	}
	return "<machine>" + string(text) + "</machine>", nil
}

// embedded is the element as it stands in a domain's description.
func (r record) embedded() (string, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(`<%s:machine xmlns:%s="%s">%s</%s:machine>`, metadataKey, metadataKey, Namespace, text, metadataKey), nil
}

// decodeRecord reads an element. An empty one is that of a domain which is not
// ours: no record and no error.
func decodeRecord(element string) (*record, error) {
	if element == "" {
		return nil, nil
	}
	var e struct {
		Text string `xml:",chardata"`
	}
	if err := xml.Unmarshal([]byte(element), &e); err != nil {
		return nil, fmt.Errorf("its metadata cannot be read: %w", err)
	}
	var r record
	if err := json.Unmarshal([]byte(e.Text), &r); err != nil {
		return nil, fmt.Errorf("its metadata cannot be read: %w", err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("its metadata is of version %d, want %d", r.Version, recordVersion)
	}
	return &r, nil
}
