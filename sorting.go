package main

// This file sorts lists of any type with one copy of the algorithm in the
// binary: package slices compiles its own for every element type, 25 KB each.

import "sort"

// sortBy sorts list; what compares equal stays in order.
func sortBy[T any](list []T, compare func(a, b T) int) {
	sort.SliceStable(list, func(i, j int) bool { return compare(list[i], list[j]) < 0 })
}
