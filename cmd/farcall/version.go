package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/farcall/farcall/internal/version"
)

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print which Farcall this is", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if c.output == formatTable {
				_, err := fmt.Fprintln(c.stdout, "farcall", version.Get())
				return err
			}
			b, err := json.Marshal(version.Get())
			if err != nil {
				return err
			}
			return c.printJSON(b)
		},
	}
}
