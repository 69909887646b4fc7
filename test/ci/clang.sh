#!/bin/bash
# Rule: clang compiles the library without a warning
# Builds beside the tree, with the clang that PostgreSQL's own bitcode needs.
clang=$(make -s --eval='print-clang:; @echo $(CLANG)' print-clang 2>/dev/null)
command -v "$clang" >/dev/null || { echo "clang is not installed"; exit 77; }
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
make -s -j"$(nproc)" -C "$build" -f "$PWD/Makefile" CC="$clang" with_llvm=no
