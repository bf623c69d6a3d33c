// Command shouter calls what the database of this test calls vulnerable.
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	fmt.Println(strings.ToUpper(strings.Join(os.Args, " ")))
}
