"""What crosses the network: frames, bundles, and what both ends agree on."""
