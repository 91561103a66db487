// Command logcheck reads a log as any client of transparency logs does, with
// other people's code alone, and prints what it verified.
//
//	logcheck -policy FILE [-old FILE] [-leaf INDEX=BASE64]... [-entries] URL
//
// The checkpoint at URL must meet the policy. Then, by the tiles that the
// server sends and that are held against the checkpoint's root: each -leaf is
// the leaf hash at that index, the tree of the -old checkpoint is the beginning
// of this one, and with -entries every entry is in the tree.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type cosigner struct {
	Name string `json:"name"`
	Time int64  `json:"time"`
}

type report struct {
	Origin    string     `json:"origin"`
	Size      int64      `json:"size"`
	Root      string     `json:"root"`
	Cosigners []cosigner `json:"cosigners"`
	Included  []int64    `json:"included"`
	OldSize   int64      `json:"old_size"`
	Entries   int64      `json:"entries"`
}

type leaf struct {
	index int64
	hash  tlog.Hash
}

type leaves []leaf

func (l *leaves) String() string { return fmt.Sprint(len(*l)) }

func (l *leaves) Set(text string) error {
	index, hash, ok := strings.Cut(text, "=")
	if !ok {
		return errors.New("want INDEX=BASE64")
	}
	i, err := strconv.ParseInt(index, 10, 64)
	if err != nil {
		return err
	}
	h, err := tlog.ParseHash(hash)
	if err != nil {
		return err
	}
	*l = append(*l, leaf{i, h})
	return nil
}

func main() {
	policyFile := flag.String("policy", "", "policy `file`")
	oldFile := flag.String("old", "", "`file` of an older checkpoint")
	entries := flag.Bool("entries", false, "read every entry")
	var wanted leaves
	flag.Var(&wanted, "leaf", "`INDEX=BASE64` of a leaf hash; repeatable")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	found, err := check(flag.Arg(0), *policyFile, *oldFile, wanted, *entries)
	if err != nil {
		fmt.Fprintln(os.Stderr, "logcheck:", err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		fmt.Fprintln(os.Stderr, "logcheck:", err)
		os.Exit(1)
	}
}

func check(url, policyFile, oldFile string, wanted leaves, entries bool) (*report, error) {
	ctx := context.Background()
	policyText, err := os.ReadFile(policyFile)
	if err != nil {
		return nil, err
	}
	policy, err := torchwood.ParsePolicy(policyText)
	if err != nil {
		return nil, err
	}
	tiles, err := torchwood.NewTileFetcher(url)
	if err != nil {
		return nil, err
	}
	signed, err := tiles.ReadEndpoint(ctx, "checkpoint")
	if err != nil {
		return nil, err
	}
	head, n, err := torchwood.VerifyCheckpoint(signed, policy)
	if err != nil {
		return nil, err
	}
	found := &report{Origin: head.Origin, Size: head.N, Root: head.Hash.String()}
	if found.Cosigners, err = cosigners(n, policy); err != nil {
		return nil, err
	}
	hashes := torchwood.TileHashReaderWithContext(ctx, head.Tree, tiles)
	for _, want := range wanted {
		proof, err := tlog.ProveRecord(head.N, want.index, hashes)
		if err != nil {
			return nil, fmt.Errorf("leaf %d: %w", want.index, err)
		}
		if err := tlog.CheckRecord(proof, head.N, head.Hash, want.index, want.hash); err != nil {
			return nil, fmt.Errorf("leaf %d: %w", want.index, err)
		}
		found.Included = append(found.Included, want.index)
	}
	if oldFile != "" {
		if found.OldSize, err = checkOld(oldFile, head, hashes, policy); err != nil {
			return nil, err
		}
	}
	if entries {
		if found.Entries, err = readEntries(ctx, tiles, head); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// cosigners lists the verified signatures that carry a time.
func cosigners(n *note.Note, policy torchwood.Policy) ([]cosigner, error) {
	var found []cosigner
	for _, sig := range n.Sigs {
		verifier, err := policy.Verifier(sig.Name, sig.Hash)
		if err != nil {
			return nil, err
		}
		if _, ok := verifier.(*torchwood.CosignatureVerifier); !ok {
			continue
		}
		time, err := torchwood.CosignatureTimestamp(sig)
		if err != nil {
			return nil, err
		}
		found = append(found, cosigner{sig.Name, time})
	}
	return found, nil
}

func checkOld(file string, head torchwood.Checkpoint, hashes tlog.HashReader, policy torchwood.Policy) (int64, error) {
	signed, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	old, _, err := torchwood.VerifyCheckpoint(signed, policy)
	if err != nil {
		return 0, fmt.Errorf("old checkpoint: %w", err)
	}
	if old.N == 0 {
		return 0, nil
	}
	proof, err := tlog.ProveTree(head.N, old.N, hashes)
	if err != nil {
		return 0, err
	}
	return old.N, tlog.CheckTree(proof, head.N, head.Hash, old.N, old.Hash)
}

// readEntries reads every entry; the client holds each against the tree.
func readEntries(ctx context.Context, tiles torchwood.TileReader, head torchwood.Checkpoint) (int64, error) {
	client, err := torchwood.NewClient(tiles)
	if err != nil {
		return 0, err
	}
	var count int64
	for range client.AllEntries(ctx, head.Tree, 0) {
		count++
	}
	if err := client.Err(); err != nil {
		return 0, err
	}
	if count != head.N {
		return 0, fmt.Errorf("got %d entries of %d", count, head.N)
	}
	return count, nil
}
