// Command tesseralog makes a log with Tessera's POSIX storage, asks the
// witnesses of a policy to cosign each of its checkpoints, and ends when a
// checkpoint that the policy accepts covers all entries.
//
//	tesseralog -dir DIR -key FILE -policy FILE [-entries N]
//
// DIR then holds the log as c2sp.org/tlog-tiles lays it out. The key is a
// signing key as golang.org/x/mod/sumdb/note writes it. A second run on the same
// DIR makes the log longer by N entries.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
)

func main() {
	dir := flag.String("dir", "", "`folder` of the log")
	keyFile := flag.String("key", "", "`file` of the signing key")
	policyFile := flag.String("policy", "", "policy `file` that names the witnesses")
	entries := flag.Int("entries", 10, "entries to add")
	timeout := flag.Duration("timeout", time.Minute, "how long to wait for the witnesses")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	if err := run(ctx, *dir, *keyFile, *policyFile, *entries); err != nil {
		fmt.Fprintln(os.Stderr, "tesseralog:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir, keyFile, policyFile string, entries int) error {
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	signer, err := note.NewSigner(string(key))
	if err != nil {
		return err
	}
	policy, err := os.ReadFile(policyFile)
	if err != nil {
		return err
	}
	witnesses, err := tessera.NewWitnessGroupFromPolicy(policy)
	if err != nil {
		return err
	}
	driver, err := posix.New(ctx, posix.Config{Path: dir})
	if err != nil {
		return err
	}
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithCheckpointInterval(100*time.Millisecond).
		WithBatching(256, 50*time.Millisecond).
		WithWitnesses(witnesses, nil))
	if err != nil {
		return err
	}
	await := tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, 50*time.Millisecond)
	futures := make([]tessera.IndexFuture, 0, entries)
	for number := range entries {
		futures = append(futures, appender.Add(ctx, tessera.NewEntry(fmt.Appendf(nil, "entry %d", number))))
	}
	for _, future := range futures {
		if _, _, err := await.Await(ctx, future); err != nil {
			return err
		}
	}
	return shutdown(ctx)
}
