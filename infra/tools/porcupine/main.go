// Tells which registers have a linearizable history.
//
// Standard input: one operation a line, as JSON: {"register", "process", "write", "value", "begin_ns", "end_ns"}.
// A write whose outcome nobody knows has an end_ns beyond all others. Value -1 is "never written".
// Standard output: one line a register, in the order in which they came: {"register", "result", "operations"},
// result being "ok", "illegal" or "unknown" (the search took longer than -timeout). Exit status 2: bad input.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/anishathalye/porcupine"
)

// version is that of the library, set by the linker.
var version = "unknown"

type operation struct {
	Register string `json:"register"`
	Process  string `json:"process"`
	Write    bool   `json:"write"`
	Value    int64  `json:"value"`
	Begin    int64  `json:"begin_ns"`
	End      int64  `json:"end_ns"`
}

type verdict struct {
	Register   string `json:"register"`
	Result     string `json:"result"`
	Operations int    `json:"operations"`
}

type input struct {
	write bool
	value int64
}

var register = porcupine.Model{
	Init: func() interface{} { return int64(-1) },
	Step: func(state, in, out interface{}) (bool, interface{}) {
		if asked := in.(input); asked.write {
			return true, asked.value
		}
		return out.(int64) == state.(int64), state
	},
	Equal: func(a, b interface{}) bool { return a.(int64) == b.(int64) },
}

func main() {
	limit := flag.Duration("timeout", 20*time.Second, "longest search for one register")
	tell := flag.Bool("version", false, "print the version and leave")
	flag.Parse()
	if *tell {
		fmt.Println("porcupine", version)
		return
	}
	names, byRegister, err := read(bufio.NewReaderSize(os.Stdin, 1<<20))
	if err != nil {
		fmt.Fprintf(os.Stderr, "porcupine: standard input: %v; give one operation a line\n", err)
		os.Exit(2)
	}
	out := json.NewEncoder(os.Stdout)
	for _, name := range names {
		operations := byRegister[name]
		told := verdict{Register: name, Result: search(operations, *limit), Operations: len(operations)}
		if err := out.Encode(told); err != nil {
			os.Exit(2)
		}
	}
}

func read(in *bufio.Reader) ([]string, map[string][]porcupine.Operation, error) {
	var names []string
	byRegister := map[string][]porcupine.Operation{}
	clients := map[string]int{}
	decoder := json.NewDecoder(in)
	for number := 1; decoder.More(); number++ {
		var one operation
		if err := decoder.Decode(&one); err != nil {
			return nil, nil, fmt.Errorf("operation %d: %w", number, err)
		}
		if one.End < one.Begin {
			return nil, nil, fmt.Errorf("operation %d ends before it begins", number)
		}
		if _, known := byRegister[one.Register]; !known {
			names = append(names, one.Register)
		}
		if _, known := clients[one.Process]; !known {
			clients[one.Process] = len(clients)
		}
		byRegister[one.Register] = append(byRegister[one.Register], porcupine.Operation{
			ClientId: clients[one.Process],
			Input:    input{one.Write, one.Value},
			Call:     one.Begin,
			Output:   one.Value,
			Return:   one.End,
		})
	}
	return names, byRegister, nil
}

func search(operations []porcupine.Operation, limit time.Duration) string {
	switch porcupine.CheckOperationsTimeout(register, operations, limit) {
	case porcupine.Ok:
		return "ok"
	case porcupine.Illegal:
		return "illegal"
	default:
		return "unknown"
	}
}
