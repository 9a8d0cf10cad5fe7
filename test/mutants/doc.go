// Package mutants breaks our own code on purpose, one way at a time, and holds that some test notices
// each: a promise that no test would miss is only a sentence. `make mutants` builds and catches them;
// the ordinary tests hold that what each of them changes is still there to be changed.
//
// It is not a search for mutants: each stands for a guarantee, and was chosen. It changes no file: the
// compiler is told to read another text in a file's place. It runs no goroutines.
package mutants
