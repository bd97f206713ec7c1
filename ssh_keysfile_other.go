//go:build !linux && !darwin

package main

import "errors"

func readKeysFile(string, uint32) ([]byte, error) {
	return nil, errors.New("who may log in cannot be read safely here")
}
