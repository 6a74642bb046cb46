package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/bullpen-vm/bullpen/internal/atomicfile"
)

// slaveConfig is what all workers are told, in a file that is written anew for each
// run.
type slaveConfig struct {
	Args          []string             `json:"args"`
	Options       options              `json:"options"`
	Endpoint      string               `json:"endpoint"` // where the master is found
	Sprout        bool                 `json:"sprout"`   // the appliances were requested
	ApplianceData map[string][2]string `json:"appliance_data"`
	Runtime       runtimeConfig        `json:"runtime"`
	Suite         suite                `json:"suite"`
}

// runtimeConfig is what a run found out, for tests.
type runtimeConfig struct {
	Stamp    string `json:"ts"`
	BaseURL  string `json:"base_url"` // of the first appliance
	Template string `json:"appliance_template"`
	Provider string `json:"appliances_provider"`
}

// environment is what a test finds in its environment, on an appliance.
func (r runtimeConfig) environment(worker string, a appliance) []string {
	return []string{
		"RUN_STAMP=" + r.Stamp, "BASE_URL=" + a.URL, "FIRST_BASE_URL=" + r.BaseURL,
		"APPLIANCE_NAME=" + a.Name, "APPLIANCE_ADDRESS=" + a.Address,
		"APPLIANCE_TEMPLATE=" + a.Template, "APPLIANCE_PROVIDER=" + a.Provider, "WORKER=" + worker,
	}
}

// writeSlaveConfig removes the old file, of another run, and writes the new one so
// that no worker ever sees a part of it. Workers do not request appliances.
func writeSlaveConfig(path string, c slaveConfig) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	c.Options.UseSprout = false
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(path, 0o600, func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "\t")
		return e.Encode(c)
	})
}

func readSlaveConfig(path string) (slaveConfig, error) {
	var c slaveConfig
	text, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// applianceData maps the addresses to template and provider.
func applianceData(all []appliance) map[string][2]string {
	data := map[string][2]string{}
	for _, a := range all {
		data[a.Address] = [2]string{a.Template, a.Provider}
	}
	return data
}
